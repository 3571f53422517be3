"""Two models on the same rows: is one better, or could that be chance? Pairs of rows, not two separate numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..base.errors import InvalidInput
from .intervals import paired_proportions, percentile_interval, resample_count, resamples

SURE = 0.05
PERMUTATIONS = 5_000


@dataclass(frozen=True)
class Comparison:
    """`difference` is new − other in `metric`; `gained` are rows that only the new model has right (or nearer), `lost` the reverse."""

    metric: str
    higher_is_better: bool
    value: float
    other_value: float
    difference: float
    low: float
    high: float
    p_value: float
    verdict: str
    test: str
    gained: np.ndarray
    lost: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        return data | {"gained": len(self.gained), "lost": len(self.lost)}


def verdict_of(difference: float, p_value: float, higher_is_better: bool) -> str:
    if p_value >= SURE or difference == 0:
        return "equal"
    return "better" if (difference > 0) == higher_is_better else "worse"


def compare_classification(right: np.ndarray, other_right: np.ndarray) -> Comparison:
    """`right`, `other_right`: bool (n,), whether each model has the row right. McNemar's exact test (1947)."""
    check_rows(right, other_right)
    gained, lost = np.flatnonzero(right & ~other_right), np.flatnonzero(other_right & ~right)
    rows = len(right)
    p_value = mcnemar(len(gained), len(lost))
    low, high = paired_proportions(len(gained), len(lost), rows)
    difference = (len(gained) - len(lost)) / rows
    return Comparison(
        "accuracy",
        True,
        float(right.mean()),
        float(other_right.mean()),
        difference,
        min(low, difference),
        max(high, difference),
        p_value,
        verdict_of(difference, p_value, True),
        "McNemar, exact",
        gained,
        lost,
    )


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value: would a fair coin split the rows on which the two differ so unevenly?"""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def compare_regression(truth: np.ndarray, outputs: np.ndarray, other: np.ndarray, *, seed: int = 0) -> Comparison:
    """RMSE on the same rows: a sign-flip permutation test of the squared errors, and a paired bootstrap of the difference."""
    check_rows(outputs, other)
    mine, theirs = (outputs - truth) ** 2, (other - truth) ** 2
    value, other_value = math.sqrt(mine.mean()), math.sqrt(theirs.mean())
    difference = value - other_value
    p_value = sign_flip(mine - theirs, seed)
    unit = max(float(mine.mean()), float(theirs.mean()), 1e-300)
    pair = (np.column_stack([mine, theirs]) / unit).astype(np.float32)
    blocks = resamples(len(truth), resample_count(len(truth)), seed)
    draws = np.sqrt(np.concatenate([block @ pair for block in blocks]).astype(np.float64) / len(truth) * unit)
    low, high = percentile_interval(draws[:, 0] - draws[:, 1])
    # A row has changed if its error has, by more than a tenth of the usual error: else every row would have.
    gain = np.sqrt(theirs) - np.sqrt(mine)
    bound = 0.1 * other_value
    order = np.argsort(-np.abs(gain), kind="stable")
    return Comparison(
        "rmse",
        False,
        value,
        other_value,
        difference,
        min(low, difference),
        max(high, difference),
        p_value,
        verdict_of(difference, p_value, False),
        "sign-flip permutation of squared errors",
        order[gain[order] > bound],
        order[gain[order] < -bound],
    )


def sign_flip(differences: np.ndarray, seed: int) -> float:
    """Two-sided p-value of mean 0, by giving each pair's difference a random sign."""
    scale = float(np.abs(differences).max(initial=0))
    if scale == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    scaled = (differences / scale).astype(np.float32)
    observed, reached = abs(float(scaled.sum(dtype=np.float64))), 0
    count = resample_count(len(scaled), PERMUTATIONS)
    step = max(1, 4_000_000 // len(scaled))
    for start in range(0, count, step):
        signs = generator.integers(0, 2, (min(step, count - start), len(scaled)), dtype=np.int8)
        sums = 2 * (signs.astype(np.float32) @ scaled) - scaled.sum()
        # Exact ties are common in small samples; float32 sums may miss them by a hair.
        reached += int((np.abs(sums) >= observed * (1 - 1e-5)).sum())
    return (reached + 1) / (count + 1)


def check_rows(one: np.ndarray, two: np.ndarray) -> None:
    if len(one) != len(two) or not len(one):
        raise InvalidInput(
            "two models are compared on the same rows",
            received=f"{len(one)} and {len(two)} rows",
            expected="the same number, at least 1",
        )


def check_comparable(task: Any, other: Any, name: str, other_name: str) -> list[str]:
    """Notes for the reader; raise InvalidInput if the two models answer different questions."""

    def refuse(what: str, received: str, expected: str) -> InvalidInput:
        return InvalidInput(
            f"{name} and {other_name} cannot be compared: {what}",
            received=received,
            expected=expected,
            fix="Compare models of the same task and target.",
        )

    if (task.classes is None) != (other.classes is None):
        raise refuse("one answers with a class, the other with a number", f"{task.name} and {other.name}", "one task")
    if task.target.name != other.target.name:
        raise refuse("they predict different columns", f"{task.target.name} and {other.target.name}", "one target")
    if task.classes is None:
        return []
    mine, theirs = set(map(repr, task.classes)), set(map(repr, other.classes))
    if len(mine & theirs) < 2:
        raise refuse("they have no two classes in common", f"{len(mine)} and {len(theirs)} classes", "the same classes")
    notes = []
    for has, lacks, labels in ((name, other_name, mine - theirs), (other_name, name, theirs - mine)):
        if labels:
            shown = ", ".join(sorted(labels)[:5]) + (", …" if len(labels) > 5 else "")
            notes.append(
                f"{has} knows classes that {lacks} does not ({shown}); rows of these count as errors of {lacks}."
            )
    return notes
