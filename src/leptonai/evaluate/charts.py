"""The charts of a report, each one SVG: ROC, precision-recall, calibration, confusion, residuals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .svg import Plot, colour, esc, short


def corner(areas: Iterable[float]) -> float:
    """How much of the axes is drawn: curves that nearly fill the square show themselves only in its corner."""
    lowest = min(areas)
    return 0.1 if lowest > 0.998 else 0.25 if lowest > 0.99 else 1.0


def roc_chart(curves: Sequence[dict[str, Any]]) -> str:
    near = corner(curve["roc_auc"] for curve in curves)
    plot = Plot((0, near), (1 - near, 1), "false positive rate", "true positive rate", "ROC curves")
    if near == 1:
        plot.diagonal()
    for i, curve in enumerate(curves):
        points = curve["roc"]
        plot.line(
            points["false_positive_rate"],
            points["true_positive_rate"],
            colour(i),
            f"{curve['class']}: area {curve['roc_auc']:.4f}",
        )
    return plot.svg()


def pr_chart(curves: Sequence[dict[str, Any]]) -> str:
    near = corner(curve["average_precision"] for curve in curves)
    plot = Plot((1 - near, 1), (1 - near, 1), "recall", "precision", "Precision-recall curves")
    if len(curves) == 1 and curves[0]["share"] > 1 - near:
        plot.level(curves[0]["share"])
    for i, curve in enumerate(curves):
        plot.line(
            curve["pr"]["recall"],
            curve["pr"]["precision"],
            colour(i),
            f"{curve['class']}: average precision {curve['average_precision']:.4f}",
        )
    return plot.svg()


def calibration_chart(bins: Sequence[dict[str, Any]]) -> str:
    """Accuracy over confidence with its intervals; a dot's area follows its rows."""
    plot = Plot((0, 1), (0, 1), "confidence", "share that is right", "Calibration")
    plot.diagonal()
    most = max((part["rows"] for part in bins), default=1)
    for part in bins:
        # A handful of rows proves little: drawn, and drawn faintly.
        shade = "c0 faint" if part["rows"] < 10 else "c0"
        plot.whisker(part["confidence"], part["low"], part["high"], shade)
        text = f"{part['rows']:,} rows: confidence {part['confidence']:.3f}, right {part['accuracy']:.3f} ({part['low']:.3f} to {part['high']:.3f})"
        plot.dots(
            [part["confidence"]], [part["accuracy"]], round(2.5 + 4 * math.sqrt(part["rows"] / most), 1), shade, [text]
        )
    return plot.svg()


def confidence_chart(bins: Sequence[dict[str, Any]]) -> str:
    most = max((part["rows"] for part in bins), default=1)
    plot = Plot((0, 1), (0, most), "confidence", "rows", "How sure the model is")
    for part in bins:
        plot.bar(
            part["from"],
            part["to"],
            part["rows"],
            "c0",
            f"{part['from']:.2f} to {part['to']:.2f}: {part['rows']:,} rows",
        )
    return plot.svg()


def scatter_chart(points: dict[str, list[float]]) -> str:
    both = points["true"] + points["predicted"]
    low, high = min(both), max(both)
    margin = (high - low or abs(high) or 1) * 0.03
    limits = (low - margin, high + margin)
    plot = Plot(limits, limits, "true", "predicted", "Predicted against true")
    plot.diagonal()
    plot.dots(points["true"], points["predicted"], 2.2, "c0 faint")
    return plot.svg()


def residual_chart(residuals: dict[str, Any]) -> str:
    edges, rows = residuals["edges"], residuals["rows"]
    plot = Plot((edges[0], edges[-1]), (0, max(*rows, 1)), "predicted − true", "rows", "Residuals")
    for i, count in enumerate(rows):
        plot.bar(edges[i], edges[i + 1], count, "c0", f"{short(edges[i])} to {short(edges[i + 1])}: {count:,} rows")
    return plot.svg()


def decile_chart(parts: Sequence[dict[str, Any]]) -> str:
    """Mean absolute error in each tenth of the true values, and the bias as a dot."""
    values = [part["mae"] for part in parts] + [part["bias"] for part in parts] + [0.0]
    plot = Plot(
        (0, len(parts)),
        (min(values), max(values) or 1),
        "tenth of the true value, low to high",
        "error",
        "Error along the target",
    )
    for i, part in enumerate(parts):
        text = f"{short(part['from'])} to {short(part['to'])}, {part['rows']:,} rows: mean |error| {short(part['mae'])}, bias {short(part['bias'])}"
        plot.bar(i, i + 1, part["mae"], "c0", text)
        plot.dots([i + 0.5], [part["bias"]], 3.5, "c1", [text])
    return plot.svg()


def confusion_chart(labels: Sequence[Any], predicted: Sequence[Any], matrix: Sequence[Sequence[int]]) -> str:
    """Cells shaded by their share of the row: blue on the diagonal, red off it. Counts are written where they fit."""
    lines, width = len(labels), len(predicted)
    cell = 34 if width <= 12 else 20 if width <= 30 else max(5, 620 // width)
    names = width <= 40
    longest = max((len(str(label)) for label in [*labels, *predicted]), default=1)
    edge = min(150, 14 + 6.2 * longest) if names else 20
    turn = 6.2 * longest > cell
    head = (edge if turn else 20) if names else 4
    size_x, size_y = edge + width * cell + 4, head + lines * cell + 4
    cells = np.asarray(matrix)
    totals = np.maximum(cells.sum(1), 1)
    parts = []
    for i in range(lines):
        for k in range(width):
            count, share = int(cells[i, k]), cells[i, k] / totals[i]
            if not count and width > 30:
                continue
            kind = "none" if not count else "hit" if i == k else "miss"
            depth = math.sqrt(share) if i != k else share
            x, y = edge + k * cell, head + i * cell
            text = f"{labels[i]} → {predicted[k]}: {count:,} rows, {share:.1%}"
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell - 1}" height="{cell - 1}" rx="{min(4, cell // 6)}"'
                f' fill-opacity="{0.05 + 0.9 * depth if count else 0.5:.3f}"><title>{esc(text)}</title></rect>'
            )
            if count and width <= 12:
                dark = " on" if depth > 0.55 else ""
                parts.append(
                    f'<text class="count{dark}" x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3.5:.1f}" text-anchor="middle">{short(count)}</text>'
                )
    if names:
        parts += [axis_name(label, edge - 5, head + (i + 0.5) * cell + 3, "end") for i, label in enumerate(labels)]
        for k, label in enumerate(predicted):
            x = edge + (k + 0.5) * cell
            parts.append(
                axis_name(label, x + 3, head - 5, "start", turn=True)
                if turn
                else axis_name(label, x, head - 6, "middle")
            )
    return f'<svg class="matrix" viewBox="0 0 {size_x:.0f} {size_y:.0f}" width="{size_x:.0f}" role="img" aria-label="Confusion matrix">{"".join(parts)}</svg>'


def axis_name(label: Any, x: float, y: float, anchor: str, turn: bool = False) -> str:
    text = str(label)
    text = text if len(text) <= 22 else text[:21] + "…"
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{esc(text)}</text>'
