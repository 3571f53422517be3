"""Measures on parts of the rows: which values of a column the model is worse on than elsewhere, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..base.errors import InvalidInput
from .intervals import Estimate, holm, percentile_interval, proportion, resample_count, resamples

MISSING = "(missing)"
OTHER = "(other values)"
BINS = 5
VALUES = 30
SMALLEST = 10
"""Rows from which a slice can be flagged: fewer are shown and never accused."""
SURE = 0.05


def group_values(values: Sequence[Any]) -> list[tuple[str, np.ndarray]]:
    """(label, row mask) of each value of a category, boolean or text column; rare ones past the 30 most frequent are one group."""
    labels = np.array([MISSING if value is None else str(value) for value in values], object)
    names, places, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:VALUES]
    groups = [(str(names[place]), places == place) for place in frequent]
    rest = ~np.isin(places, frequent)
    return [*groups, (OTHER, rest)] if rest.any() else groups


def group_numbers(values: np.ndarray, *, dates: bool = False) -> list[tuple[str, np.ndarray]]:
    """(label, row mask): each value if there are at most ten, else five bins with about equally many rows. NaN is a group."""
    known = np.isfinite(values)
    if not known.any():
        return [(MISSING, ~known)]
    distinct = np.unique(values[known])
    write = date if dates else number
    if len(distinct) <= 10:
        groups = [(write(value), values == value) for value in distinct]
    else:
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
        place = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
        groups = [(f"{write(edges[i])} to {write(edges[i + 1])}", known & (place == i)) for i in range(len(edges) - 1)]
    return [(label, mask) for label, mask in [*groups, (MISSING, ~known)] if mask.any()]


def measure_slices(
    groups: dict[str, list[tuple[str, np.ndarray]]], truth: np.ndarray, outputs: np.ndarray, *, seed: int = 0
) -> list[dict[str, Any]]:
    """One entry per slice, the worst first. `flagged`: worse than the other rows, also after correction for how many slices there are.

    Classification compares accuracy (Fisher's exact test), regression the size of errors (Mann-Whitney, RMSE shown).
    """
    classes = outputs.ndim == 2
    score = (truth == outputs.argmax(1)).astype(float) if classes else np.abs(outputs - truth)
    entries = []
    for column, parts in groups.items():
        for label, mask in parts:
            inside, outside = score[mask], score[~mask]
            estimate = slice_accuracy(inside) if classes else slice_rmse(inside, seed)
            rest = value_of(outside, classes)
            entries.append(
                {
                    "column": column,
                    "slice": label,
                    "rows": len(inside),
                    "metric": "accuracy" if classes else "rmse",
                    **estimate.to_dict(),
                    "rest": rest,
                    "p_value": chance(inside, outside, classes),
                }
            )
    for entry, corrected in zip(entries, holm([entry["p_value"] for entry in entries]), strict=True):
        worse = entry["rest"] is not None and (
            entry["value"] < entry["rest"] if classes else entry["value"] > entry["rest"]
        )
        entry["p_corrected"] = corrected
        entry["flagged"] = bool(worse and corrected < SURE and entry["rows"] >= SMALLEST)
    return sorted(entries, key=lambda e: (not e["flagged"], e["value"] if classes else -e["value"]))


def slice_accuracy(right: np.ndarray) -> Estimate:
    return proportion(int(right.sum()), len(right))


def slice_rmse(error: np.ndarray, seed: int) -> Estimate:
    square = (error**2).astype(np.float64)
    unit = max(float(square.mean()), 1e-300)
    scaled = (square / unit).astype(np.float32)
    draws = [block @ scaled for block in resamples(len(error), resample_count(len(error)), seed)]
    low, high = percentile_interval(np.sqrt(np.concatenate(draws).astype(float) / len(error) * unit))
    return Estimate(math.sqrt(square.mean()), low, high)


def value_of(score: np.ndarray, classes: bool) -> float | None:
    if not len(score):
        return None
    return float(score.mean()) if classes else float(np.sqrt((score**2).mean()))


def chance(inside: np.ndarray, outside: np.ndarray, classes: bool) -> float:
    """How likely a slice is this much worse if it is like the other rows (one-sided)."""
    from scipy.stats import fisher_exact, mannwhitneyu

    if not len(inside) or not len(outside):
        return 1.0
    if classes:
        table = [[int(part.sum()), int(len(part) - part.sum())] for part in (inside, outside)]
        return float(fisher_exact(table, alternative="less").pvalue)
    if np.ptp(np.concatenate([inside, outside])) == 0:
        return 1.0
    return float(mannwhitneyu(inside, outside, alternative="greater", method="asymptotic").pvalue)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
    except (OverflowError, ValueError, OSError):
        return number(seconds)


def slice_groups(column: Any, values: Any, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Groups of a dataset's column by its type. Raises InvalidInput for a type that has no values to group by."""
    from ..tasks.arrays import floats, seconds, strings

    if column.type in ("category", "text"):
        return group_values(strings(values, rows))
    if column.type == "boolean":
        names = {0.0: "false", 1.0: "true"}
        return group_values([names.get(value) for value in floats(values, rows).tolist()])
    if column.type in ("number", "integer"):
        return group_numbers(floats(values, rows))
    if column.type == "timestamp":
        return group_numbers(seconds(values, rows), dates=True)
    raise InvalidInput(
        f"rows cannot be sliced by {column.name!r}",
        received=f"type {column.type}",
        expected="category, boolean, text, number, integer or timestamp",
        fix="Choose another column for --slice.",
    )
