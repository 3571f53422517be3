"""`lep evaluate`: a model measured on a dataset. The figures on the terminal, the whole report in two files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json, print_table

if TYPE_CHECKING:
    from ..evaluate.report import Report

PERCENT = {"accuracy", "precision", "recall", "f1", "mape"}


@click.command()
@click.argument("model")
@click.argument("dataset")
@click.option("--split", default="test", show_default=True, help="Rows to measure: train, validation, test or all.")
@click.option(
    "--slice", "slices", multiple=True, metavar="COLUMN", help="Also measure each value of COLUMN. May be repeated."
)
@click.option("--compare", metavar="OTHER", help="Pair with the model OTHER on the same rows.")
@click.option("--seed", default=0, show_default=True, help="Of the resamples behind the intervals.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for report.json and report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
def evaluate(
    model: str,
    dataset: str,
    split: str,
    slices: tuple[str, ...],
    compare: str | None,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure MODEL (name, name@version, or a folder) on DATASET (name or name@version), or compare two models."""
    from ..evaluate.report import evaluate as measure

    report = measure(model, dataset, split=split, slices=slices, compare=compare, seed=seed)
    if as_json:
        if output:
            report.save(output)
        print_json(report.to_dict())
        return
    from ..base.home import Home

    page = report.save(output or Home.current().reports / report.title)
    print_report(report)
    click.echo(f"\nReport: {page}\n        {page.with_name('report.json')}")


def print_report(report: Report) -> None:
    """Headline, what needs attention, the comparison."""
    data = report.to_dict()
    head = f"{data['model']['ref']} on {data['dataset']['ref']}, {data['rows']:,} rows ({data['split']})"
    print_table(
        ["metric", "value", "95 % interval"],
        [
            (label(name), show(name, m["value"]), interval(name, m["low"], m["high"]))
            for name, m in data["metrics"].items()
        ],
        title=head,
    )
    if data["slices"]:
        print_table(
            ["slice", "rows", data["slices"][0]["metric"], "95 % interval", ""],
            [
                (
                    f"{part['column']} = {part['slice']}",
                    f"{part['rows']:,}",
                    show(part["metric"], part["value"]),
                    interval(part["metric"], part["low"], part["high"]),
                    "worse than the rest" if part["flagged"] else "",
                )
                for part in data["slices"][:20]
            ],
        )
    for entry in (data.get("confusion") or {}).get("most", [])[:3]:
        click.echo(
            f"Taken for another: {entry['true']} → {entry['predicted']}, {entry['rows']:,} rows ({entry['share']:.1%} of {entry['true']})."
        )
    if report.comparison:
        print_comparison(report.comparison)
    for note in data["notes"]:
        click.echo(f"Note: {note}")
    for warning in data["warnings"]:
        click.secho(f"Warning: {warning}", fg="yellow")


def print_comparison(found: dict[str, Any]) -> None:
    name = found["metric"]
    click.echo(
        f"{found['verdict'].capitalize()} than {found['other']}"
        if found["verdict"] != "equal"
        else f"No proven difference from {found['other']}",
        nl=False,
    )
    click.echo(
        f": {name} {show(name, found['value'])} against {show(name, found['other_value'])}, difference {signed(name, found['difference'])}"
        f" ({signed(name, found['low'])} to {signed(name, found['high'])}), p = {found['p_value']:.3g} ({found['test']});"
        f" {found['gained']:,} rows better, {found['lost']:,} worse."
    )


def label(name: str) -> str:
    return name.replace("_", " ").replace("roc auc", "ROC AUC").replace("r2", "R²")


def show(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in PERCENT:
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(name: str, value: float | None) -> str:
    text = show(name, value).replace(" %", " points")
    return f"+{text}" if value is not None and value > 0 else text.replace("-", "−")


def interval(name: str, low: float | None, high: float | None) -> str:
    return f"{show(name, low)} to {show(name, high)}" if low is not None and high is not None else ""
