"""Charts as inline SVG: no script, no request, colours from the page's style. Every text that comes from data is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = 10


def esc(value: Any) -> str:
    """Text for HTML, attributes included; control characters, which no parser likes, become a sign."""
    text = "".join(c if c >= " " or c in "\n\t" else "·" for c in str(value))
    return html.escape(text, quote=True)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 12 k, 3.5 M, 0.25."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g} {unit}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


class Plot:
    """A frame with axes; points are given in data units. 380 × 300 units, which a phone shows about one to one."""

    width, height, left, right, top, bottom = 380, 300, 48, 10, 10, 40

    def __init__(self, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str, title: str):
        self.x_range, self.y_range, self.parts = x, y, []
        self.title = title
        self._axes(x_label, y_label)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)

    def _axes(self, x_label: str, y_label: str) -> None:
        base, end = self.height - self.bottom, self.width - self.right
        for value in ticks(*self.y_range):
            at = self.y(value)
            self.parts.append(f'<path class="grid" d="M{self.left} {at:.1f}H{end}"/>')
            self.parts.append(
                f'<text class="tick" x="{self.left - 6}" y="{at + 3.5:.1f}" text-anchor="end">{short(value)}</text>'
            )
        for value in ticks(*self.x_range):
            at = self.x(value)
            self.parts.append(f'<path class="grid" d="M{at:.1f} {self.top}V{base}"/>')
            self.parts.append(
                f'<text class="tick" x="{at:.1f}" y="{base + 15}" text-anchor="middle">{short(value)}</text>'
            )
        middle = (self.left + end) / 2
        self.parts.append(
            f'<text class="axis" x="{middle}" y="{self.height - 6}" text-anchor="middle">{esc(x_label)}</text>'
        )
        centre = (self.top + base) / 2
        self.parts.append(
            f'<text class="axis" x="12" y="{centre}" text-anchor="middle" transform="rotate(-90 12 {centre})">{esc(y_label)}</text>'
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, title: str = "") -> None:
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        self.parts.append(f'<polyline class="line {colour}" points="{points}"><title>{esc(title)}</title></polyline>')

    def diagonal(self) -> None:
        low, high = max(self.x_range[0], self.y_range[0]), min(self.x_range[1], self.y_range[1])
        self.parts.append(
            f'<path class="guide" d="M{self.x(low):.1f} {self.y(low):.1f}L{self.x(high):.1f} {self.y(high):.1f}"/>'
        )

    def level(self, value: float) -> None:
        self.parts.append(f'<path class="guide" d="M{self.left} {self.y(value):.1f}H{self.width - self.right}"/>')

    def bar(self, start: float, end: float, value: float, colour: str, title: str) -> None:
        zero = self.y(max(self.y_range[0], 0))
        at, width = self.x(start), self.x(end) - self.x(start)
        top, gap = self.y(value), min(1.0, width * 0.1)
        self.parts.append(
            f'<rect class="bar {colour}" x="{at + gap:.1f}" y="{min(top, zero):.1f}" width="{max(width - 2 * gap, 0.5):.1f}"'
            f' height="{max(abs(zero - top), 0):.1f}"><title>{esc(title)}</title></rect>'
        )

    def whisker(self, x: float, low: float, high: float) -> None:
        self.parts.append(f'<path class="whisker" d="M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}"/>')

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], radius: float, colour: str, titles: Sequence[str] = ()
    ) -> None:
        for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
            inside = f"<title>{esc(titles[i])}</title>" if titles else ""
            self.parts.append(
                f'<circle class="dot {colour}" cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="{radius}">{inside}</circle>'
            )

    def svg(self) -> str:
        return f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{esc(self.title)}">{"".join(self.parts)}</svg>'


def colour(index: int) -> str:
    return f"c{index % COLOURS}"


def roc_chart(curves: Sequence[dict[str, Any]]) -> str:
    plot = Plot((0, 1), (0, 1), "false positive rate", "true positive rate", "ROC curves")
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
    plot = Plot((0, 1), (0, 1), "recall", "precision", "Precision-recall curves")
    if len(curves) == 1:
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
    plot.line([part["confidence"] for part in bins], [part["accuracy"] for part in bins], "c0 thin")
    for part in bins:
        plot.whisker(part["confidence"], part["low"], part["high"])
        text = f"{part['rows']:,} rows: confidence {part['confidence']:.3f}, right {part['accuracy']:.3f} ({part['low']:.3f} to {part['high']:.3f})"
        plot.dots(
            [part["confidence"]], [part["accuracy"]], round(2.5 + 4 * math.sqrt(part["rows"] / most), 1), "c0", [text]
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
    size_x, size_y = edge + width * cell + 4, edge + lines * cell + 4
    cells = np.asarray(matrix)
    totals = np.maximum(cells.sum(1), 1)
    parts = []
    for i in range(lines):
        for k in range(width):
            count, share = int(cells[i, k]), cells[i, k] / totals[i]
            if not count and width > 30:
                continue
            kind = "hit" if i == k else "miss"
            depth = math.sqrt(share) if i != k else share
            x, y = edge + k * cell, edge + i * cell
            text = f"{labels[i]} → {predicted[k]}: {count:,} rows, {share:.1%}"
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell - 1}" height="{cell - 1}" rx="{min(4, cell // 6)}"'
                f' fill-opacity="{0.04 + 0.9 * depth if count else 0.03:.3f}"><title>{esc(text)}</title></rect>'
            )
            if count and width <= 12:
                dark = " on" if depth > 0.55 else ""
                parts.append(
                    f'<text class="count{dark}" x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3.5:.1f}" text-anchor="middle">{short(count)}</text>'
                )
    if names:
        parts += [axis_name(label, edge - 5, edge + (i + 0.5) * cell + 3, "end") for i, label in enumerate(labels)]
        parts += [
            axis_name(label, edge + (k + 0.5) * cell + 3, edge - 5, "start", turn=True)
            for k, label in enumerate(predicted)
        ]
    return f'<svg class="matrix" viewBox="0 0 {size_x:.0f} {size_y:.0f}" width="{size_x:.0f}" role="img" aria-label="Confusion matrix">{"".join(parts)}</svg>'


def axis_name(label: Any, x: float, y: float, anchor: str, turn: bool = False) -> str:
    text = str(label)
    text = text if len(text) <= 22 else text[:21] + "…"
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{esc(text)}</text>'


def interval_bar(
    value: float,
    low: float | None,
    high: float | None,
    limits: tuple[float, float],
    kind: str = "c0",
    mark: float | None = None,
) -> str:
    """A value with its interval on a thin scale; `mark` is a line to read it against (zero, or the rest of the rows)."""
    span = (limits[1] - limits[0]) or 1

    def at(number: float) -> float:
        return 2 + 156 * min(1.0, max(0.0, (number - limits[0]) / span))

    parts = ['<path class="rail" d="M2 8H158"/>']
    if mark is not None:
        parts.append(f'<path class="mark" d="M{at(mark):.1f} 1V15"/>')
    if low is not None and high is not None:
        parts.append(f'<path class="range {kind}" d="M{at(low):.1f} 8H{max(at(high), at(low) + 0.5):.1f}"/>')
    parts.append(f'<circle class="dot {kind}" cx="{at(value):.1f}" cy="8" r="4"/>')
    return f'<svg class="interval" viewBox="0 0 160 16" aria-hidden="true">{"".join(parts)}</svg>'


def share_bar(share: float | None, kind: str = "c0") -> str:
    if share is None:
        return ""
    return f'<svg class="share" viewBox="0 0 60 6" preserveAspectRatio="none" aria-hidden="true"><rect class="rail" width="60" height="6" rx="3"/><rect class="bar {kind}" width="{60 * share:.1f}" height="6" rx="3"/></svg>'
