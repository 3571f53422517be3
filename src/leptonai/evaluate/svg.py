"""Inline SVG from parts: a plot with axes, a small interval bar. No script, colours from the page's style, every text from data escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

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
        """Drawn in a frame of its own, which cuts off what lies outside the axes."""
        x, y = self.left - 1, self.top - 1
        wide, tall = self.width - self.left - self.right + 2, self.height - self.top - self.bottom + 2
        points = " ".join(f"{self.x(a) - x:.1f},{self.y(b) - y:.1f}" for a, b in zip(xs, ys, strict=True))
        self.parts.append(
            f'<svg x="{x}" y="{y}" width="{wide}" height="{tall}"><polyline class="line {colour}" points="{points}">'
            f"<title>{esc(title)}</title></polyline></svg>"
        )

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

    def whisker(self, x: float, low: float, high: float, colour: str) -> None:
        self.parts.append(f'<path class="whisker {colour}" d="M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}"/>')

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
        return 5 + 150 * min(1.0, max(0.0, (number - limits[0]) / span))

    parts = ['<path class="rail" d="M5 8H155"/>']
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
