"""95 % intervals. The bootstrap here never recomputes a metric from rows: a resample is a vector of weights, and every metric is made
of weighted sums, so a thousand resamples of all metrics are a few matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1_000
# Draws that a bootstrap may cost. Past 50,000 rows there are fewer resamples, where each of them varies little.
BUDGET = 50_000_000
FEWEST = 200
# Weights held at once: 4 M × 4 bytes.
BLOCK = 4_000_000
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; `low` and `high` are None where no interval is known."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: they are null."""
    return None if value is None or not math.isfinite(value) else float(value)


def resample_count(rows: int, wanted: int = RESAMPLES) -> int:
    return int(min(wanted, max(FEWEST, BUDGET // max(rows, 1))))


def resamples(rows: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (b, rows) float32 of how often each row is drawn; `count` resamples in all, each of `rows` draws."""
    generator = np.random.default_rng(seed)
    step = max(1, min(count, BLOCK // max(rows, 1)))
    for start in range(0, count, step):
        size = min(step, count - start)
        block = np.empty((size, rows), np.float32)
        for index in range(size):
            block[index] = np.bincount(generator.integers(0, rows, rows), minlength=rows)
        yield block


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the resampled `values` (NaN: that resample had no value)."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def wilson(right: float, rows: float, z: float = Z95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927). It stays in [0, 1], and is honest where all or none are right."""
    if rows <= 0:
        return 0.0, 1.0
    share = right / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def proportion(right: float, rows: float) -> Estimate:
    return Estimate(right / rows if rows else math.nan, *wilson(right, rows))


def paired_proportions(only_first: int, only_second: int, rows: int) -> tuple[float, float]:
    """Interval of the difference (first − second) of two accuracies on the same rows (Agresti & Min 2005: half a row in each cell)."""
    rows_, first, second = rows + 2, only_first + 0.5, only_second + 0.5
    difference = (first - second) / rows_
    half = Z95 * math.sqrt(max(first + second - (first - second) ** 2 / rows_, 0)) / rows_
    return max(-1.0, difference - half), min(1.0, difference + half)


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979), in the order given."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted
