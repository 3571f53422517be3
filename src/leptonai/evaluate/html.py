"""The report as one HTML file that needs nothing else: no script, no request, its policy says so. Read from a dict, so an old report.json can be drawn too."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import (
    calibration_chart,
    confidence_chart,
    confusion_chart,
    corner,
    decile_chart,
    pr_chart,
    residual_chart,
    roc_chart,
    scatter_chart,
)
from .style import STYLE
from .svg import colour, esc, interval_bar, share_bar, short

PERCENT = {"accuracy", "precision", "recall", "f1", "mape"}
UNIT_RANGE = {*PERCENT, "roc_auc", "average_precision"} - {"mape"}
NAMES = {
    "accuracy": ("Accuracy", "rows answered right"),
    "precision": ("Precision", "right where it says a class, mean of classes"),
    "recall": ("Recall", "of a class found, mean of classes"),
    "f1": ("F1", "precision and recall in one, mean of classes"),
    "log_loss": ("Log loss", "how wrong its probabilities are; 0 is perfect"),
    "brier": ("Brier score", "squared error of its probabilities; 0 is perfect"),
    "roc_auc": ("ROC AUC", "ranks a row of the class above another"),
    "average_precision": ("Average precision", "area under precision-recall"),
    "rmse": ("RMSE", "root of the mean squared error"),
    "mae": ("MAE", "mean of the absolute error"),
    "median_error": ("Median error", "half of the rows are nearer"),
    "r2": ("R²", "share of the target's variance explained"),
    "mape": ("MAPE", "mean error relative to the true value"),
}
CLASSES = 15
WORSE = '<span class="tag bad">worse</span>'


def report_html(data: Mapping[str, Any]) -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{data['model']['ref']} on {data['dataset']['ref']}"
    sections = [head(data, title), cards(data), comparison(data), mistakes(data), per_class(data), curves(data)]
    sections += [calibration(data), regression(data), slices(data), worst(data), foot(data)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{esc(title)} · Lepton report</title><style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def head(data: Mapping[str, Any], title: str) -> str:
    facts = {
        "task": data["task"],
        "network": data["model"].get("network"),
        "target": data["target"],
        "rows": f"{data['rows']:,} ({data['split']})",
        "made": str(data["created_at"])[:16].replace("T", " ") + " UTC",
    }
    shown = "".join(f"<span>{name} <b>{esc(value)}</b></span>" for name, value in facts.items() if value)
    warned = "".join(f'<div class="call warn"><b>Read with care.</b> {esc(text)}</div>' for text in data["warnings"])
    noted = "".join(f'<div class="call">{esc(text)}</div>' for text in data["notes"])
    return f'<header><div class="eyebrow">Evaluation report</div><h1>{esc(title)}</h1><div class="facts">{shown}</div>{warned}{noted}</header>'


def cards(data: Mapping[str, Any]) -> str:
    parts = []
    for name, metric in data["metrics"].items():
        label, meaning = NAMES.get(name, (name, ""))
        low, high = metric["low"], metric["high"]
        between = (
            f"{show(name, low, metric['value'])} to {show(name, high, metric['value'])}"
            if low is not None and high is not None
            else ""
        )
        scale = (0.0, 1.0) if name in UNIT_RANGE else around(metric["value"], low, high)
        first = " first" if name == data.get("metric") else ""
        parts.append(
            f'<div class="card{first}" title="{esc(meaning)}"><div class="name">{esc(label)}</div><div class="value">{show(name, metric["value"], metric["value"])}</div>'
            f"{interval_bar(metric['value'], low, high, scale)}<small>{between}</small></div>"
        )
    return f'<section class="cards">{"".join(parts)}</section><p><small>Below each value: its 95 % interval, from {data["rows"]:,} rows.</small></p>'


def around(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    """A scale from 0 (or below) to somewhat above the interval."""
    top = max(value, high if high is not None else value, 0.0) * 1.25
    return min(0.0, value, low if low is not None else value), top or 1.0


def comparison(data: Mapping[str, Any]) -> str:
    found = data["comparison"]
    if not found:
        return ""
    name = found["metric"]
    kind = {"better": "good", "worse": "bad"}.get(found["verdict"], "soft")
    says = {"better": "Better", "worse": "Worse", "equal": "No proven difference"}[found["verdict"]]
    reach = max(abs(found["low"]), abs(found["high"]), 1e-12) * 1.15
    bar = interval_bar(found["difference"], found["low"], found["high"], (-reach, reach), kind, 0.0)
    changed = "".join(
        f"<details><summary>{found[key]:,} rows that are {word} than with {esc(found['other'])}</summary>{examples(found[key + '_rows'], found['other'])}</details>"
        for key, word in (("gained", "better"), ("lost", "worse"))
        if found[key]
    )
    return (
        f'<section><h2>Compared with {esc(found["other"])}</h2><p class="lead">Both models on the same {data["rows"]:,} rows.</p><div class="card"><div class="verdict">'
        f'<strong class="{kind}">{says}</strong><div>{esc(NAMES.get(name, (name,))[0])} <b>{show(name, found["value"], found["value"])}</b> against {show(name, found["other_value"], found["value"])}</div>'
        f"<div>{bar}<small>difference {signed(name, found['difference'])}, 95 % {signed(name, found['low'])} to {signed(name, found['high'])}</small></div>"
        f"<div><small>p = {found['p_value']:.3g}<br>{esc(found['test'])}</small></div></div></div>{changed}</section>"
    )


def mistakes(data: Mapping[str, Any]) -> str:
    found = data.get("confusion")
    if not found:
        return ""
    matrix = ""
    if found["matrix"] is not None:
        drawn = confusion_chart(found["labels"], found["predicted_labels"], found["matrix"])
        matrix = f'<div class="card"><h3>Confusion matrix</h3><div class="scroll">{drawn}</div><small>Line: the true class. Column: the answer. Shade: share of the line.</small></div>'
    lines = "".join(
        f'<tr><td class="text">{esc(e["true"])}</td><td class="text">{esc(e["predicted"])}</td><td class="n">{e["rows"]:,}</td><td class="n">{e["share"]:.1%}</td></tr>'
        for e in found["most"][:10]
    )
    table = (
        f'<table><tr><th>true</th><th>answer</th><th class="n">rows</th><th class="n">of the class</th></tr>{lines}</table>'
        if lines
        else "<p>None.</p>"
    )
    return f'<section><h2>What it takes for what</h2><div class="pair">{matrix}<div class="card"><h3>Most frequent mistakes</h3>{table}</div></div></section>'


def per_class(data: Mapping[str, Any]) -> str:
    entries = data.get("per_class")
    if not entries:
        return ""
    titles = '<tr><th>class</th><th class="n">rows</th><th class="n">precision</th><th class="n">recall</th><th>recall, 95 %</th><th class="n">F1</th><th></th></tr>'

    def table(part: Sequence[Mapping[str, Any]]) -> str:
        return f'<div class="scroll"><table>{titles}{"".join(class_line(entry) for entry in part)}</table></div>'

    if len(entries) <= CLASSES:
        return f'<section><h2>Classes</h2><div class="card">{table(entries)}</div></section>'
    hardest = sorted(entries, key=lambda entry: entry["f1"])[:CLASSES]
    return (
        f'<section><h2>Classes</h2><p class="lead">The {CLASSES} of {len(entries)} with the lowest F1.</p><div class="card">{table(hardest)}'
        f"<details><summary>All {len(entries)} classes</summary>{table(entries)}</details></div></section>"
    )


def class_line(entry: Mapping[str, Any]) -> str:
    recall, precision = entry["recall"], entry["precision"]
    bar = interval_bar(recall["value"], recall["low"], recall["high"], (0, 1)) if recall else ""
    return (
        f'<tr><td class="text">{esc(entry["class"])}</td><td class="n">{entry["support"]:,}</td><td class="n">{show("precision", precision and precision["value"])}</td>'
        f'<td class="n">{show("recall", recall and recall["value"])}</td><td>{bar}</td><td class="n">{entry["f1"]:.3f}</td><td>{share_bar(entry["f1"])}</td></tr>'
    )


def curves(data: Mapping[str, Any]) -> str:
    found = data.get("curves")
    if not found:
        return ""
    one = len(found) == 1
    part = lambda key: "" if corner(curve[key] for curve in found) == 1 else " <small>only the corner is drawn</small>"  # noqa: E731
    legend = lambda key: "".join(  # noqa: E731
        f'<li class="{colour(i)}"><i></i><span>{esc(curve["class"])} {curve[key]:.3f}</span></li>'
        for i, curve in enumerate(found)
    )
    what = (
        f"Class {esc(found[0]['class'])} against the other."
        if one
        else "Each class against the rest"
        + (f"; the {len(found)} hardest of {len(data['per_class'])}." if len(found) < len(data["per_class"]) else ".")
    )
    return (
        f'<section><h2>How well it ranks</h2><p class="lead">{what}</p><div class="pair">'
        f'<div class="card"><h3>ROC{part("roc_auc")}</h3>{roc_chart(found)}<ul class="legend">{legend("roc_auc")}</ul></div>'
        f'<div class="card"><h3>Precision and recall{part("average_precision")}</h3>{pr_chart(found)}<ul class="legend">{legend("average_precision")}</ul></div></div></section>'
    )


def calibration(data: Mapping[str, Any]) -> str:
    found = data.get("calibration")
    if not found or found["ece"] is None:
        return ""
    gap = found["mean_confidence"] - data["metrics"]["accuracy"]["value"]
    leaning = (
        "On the whole it is as sure as it should be"
        if abs(gap) < 0.02
        else f"On the whole it is {'too sure' if gap > 0 else 'not sure enough'}"
    )
    largest = f", largest {found['max_gap']:.3f}" if found["max_gap"] is not None else ""
    return (
        f'<section><h2>Can its confidence be believed?</h2><p class="lead">{leaning}: mean confidence {found["mean_confidence"]:.1%}, right '
        f'{data["metrics"]["accuracy"]["value"]:.1%}. Mean gap over the bins (ECE) {found["ece"]:.3f}{largest}.</p><div class="pair">'
        f'<div class="card"><h3>Calibration</h3>{calibration_chart(found["bins"])}</div>'
        f'<div class="card"><h3>How sure it is</h3>{confidence_chart(found["bins"])}</div></div></section>'
    )


def regression(data: Mapping[str, Any]) -> str:
    found = data.get("residuals")
    if not found:
        return ""
    return (
        f'<section><h2>Errors</h2><p class="lead">On average it answers {short(abs(found["mean"]))} too {"high" if found["mean"] > 0 else "low"}.</p><div class="pair">'
        f'<div class="card"><h3>Predicted against true</h3>{scatter_chart(found["points"])}</div>'
        f'<div class="card"><h3>Residuals</h3>{residual_chart(found)}</div>'
        f'<div class="card"><h3>Along the target</h3>{decile_chart(data["by_target"])}<small>Bars: mean absolute error. Dots: bias.</small></div></div></section>'
    )


def slices(data: Mapping[str, Any]) -> str:
    entries = data.get("slices")
    if not entries:
        return ""
    name = entries[0]["metric"]
    ends = [end for e in entries for end in (e["value"], e["high"]) if end is not None]
    limits = (0.0, 1.0) if name in UNIT_RANGE else (0.0, max(ends) or 1.0)
    lines = "".join(
        f'<tr><td class="text">{esc(e["column"])} = {esc(e["slice"])}</td><td class="n">{e["rows"]:,}</td><td class="n">{show(name, e["value"])}</td>'
        f'<td>{interval_bar(e["value"], e["low"], e["high"], limits, "bad" if e["flagged"] else "c0", e["rest"])}</td><td class="n">{show(name, e["rest"])}</td>'
        f"<td>{WORSE if e['flagged'] else ''}</td></tr>"
        for e in entries[:200]
    )
    flagged = sum(e["flagged"] for e in entries)
    what = (
        f"{flagged} of {len(entries)} slices are worse than the other rows, beyond chance (p corrected for {len(entries)} slices)."
        if flagged
        else (f"None of {len(entries)} slices is worse than the other rows beyond chance.")
    )
    return (
        f'<section><h2>Slices</h2><p class="lead">{what}</p><div class="card scroll"><table><tr><th>slice</th><th class="n">rows</th><th class="n">{esc(NAMES[name][0])}</th>'
        f'<th>95 %, and the rest</th><th class="n">the rest</th><th></th></tr>{lines}</table></div></section>'
    )


def worst(data: Mapping[str, Any]) -> str:
    entries = data.get("worst")
    if not entries:
        return ""
    return f'<section><h2>Worst rows</h2><p class="lead">The rows it was most wrong about. Look here first for wrong labels.</p>{examples(entries)}</section>'


def examples(entries: Sequence[Mapping[str, Any]], other: str | None = None) -> str:
    """Pictures as a gallery, everything else as a list."""
    pictures = [e for e in entries if any(isinstance(v, Mapping) for v in e["inputs"].values())]
    if pictures:
        return f'<div class="gallery">{"".join(shot(e, other) for e in entries)}</div>'
    return "".join(f'<div class="row"><div class="say">{answer(e, other)}</div>{inputs(e)}</div>' for e in entries)


def shot(entry: Mapping[str, Any], other: str | None) -> str:
    sources = [
        v["image"]
        for v in entry["inputs"].values()
        if isinstance(v, Mapping) and str(v.get("image", "")).startswith("data:image/png;base64,")
    ]
    image = f'<img alt="row {esc(entry["row"])}" src="{esc(sources[0])}">' if sources else ""
    return f'<div class="shot">{image}{answer(entry, other)}</div>'


def answer(entry: Mapping[str, Any], other: str | None) -> str:
    if "error" in entry:
        text = f"true <b>{figure(entry['true'])}</b>, answer <b>{figure(entry['predicted'])}</b> <small>off by {figure(entry['error'])}</small>"
    else:
        kind = "good" if entry["true"] == entry["predicted"] else "bad"
        text = f'true <b>{esc(entry["true"])}</b><br>answer <b class="{kind}">{esc(entry["predicted"])}</b> <small>{entry["score"]:.1%} sure</small>'
    if other is not None:
        said = entry["other_predicted"]
        text += f"<br><small>{esc(other)}: {figure(said) if 'error' in entry else esc(said)}</small>"
    return f"{text} <small>· row {esc(entry['row'])}</small>"


def inputs(entry: Mapping[str, Any]) -> str:
    values = entry["inputs"]
    if len(values) == 1:
        return f'<div class="said">{esc(next(iter(values.values())))}</div>'
    cells = "".join(f"<div><span>{esc(name)}</span> {esc(text(value))}</div>" for name, value in values.items())
    return f'<div class="cells">{cells}</div>'


def text(value: Any) -> Any:
    return "–" if value is None else f"{value:.10g}" if isinstance(value, float) else value


def figure(value: float) -> str:
    """A value of a row: all of its digits that matter, unlike on an axis."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}").replace("-", "−")


def foot(data: Mapping[str, Any]) -> str:
    return (
        f"<footer>Made by Lepton {esc(data['lepton_version'])} on {esc(data['created_at'])}. Dataset <code>{esc(data['dataset']['ref'])}</code>, content "
        f"<code>{esc(str(data['dataset']['content_hash'])[:16])}</code>. Intervals: Wilson for proportions, else {data['resamples']:,} bootstrap resamples, seed {data['seed']}. "
        "The same figures as data: <code>report.json</code> beside this file.</footer>"
    )


def show(name: str, value: float | None, beside: float | None = None) -> str:
    """A figure, with as many digits as `beside` needs (the value whose interval it ends)."""
    if value is None:
        return "–"
    most = value if beside is None else beside
    if name in PERCENT:
        return f"{100 * value:.2f} %" if beside is not None and most > 0.985 else f"{100 * value:.1f} %"
    if name in UNIT_RANGE:
        return f"{value:.4f}" if most > 0.995 else f"{value:.3f}"
    return short(value) if abs(value) >= 100 else f"{value:.3f}" if abs(most) >= 0.05 else f"{value:.4f}"


def signed(name: str, value: float) -> str:
    if name in PERCENT:
        return f"{100 * value:+.2f} points".replace("-", "−")
    return ("+" if value > 0 else "") + (short(value) if abs(value) >= 100 else f"{value:.4f}".replace("-", "−"))
