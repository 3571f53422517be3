"""ROC, precision-recall and calibration: points to draw, areas, and how much each row moves an area (its influence).

An area's bootstrap needs only the influences: to first order, an area on a resample is the area plus Σ weight × influence
(DeLong et al. 1988 for ROC; the same derivative for average precision).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .intervals import wilson

POINTS = 101
BINS = 15
ENOUGH = 10
"""Rows from which a bin's gap can be the largest: in a bin of one row it is chance."""


def roc_area(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Area under ROC and each row's influence (n,), which sums to 0. `positive`: bool (n,), with both kinds of rows."""
    up, down = np.sort(scores[positive]), np.sort(scores[~positive])
    # Share of the rows of the other kind that a row is on the right side of; a tie counts half.
    of_up = (np.searchsorted(down, scores[positive], "left") + np.searchsorted(down, scores[positive], "right")) / (
        2 * len(down)
    )
    of_down = 1 - (np.searchsorted(up, scores[~positive], "left") + np.searchsorted(up, scores[~positive], "right")) / (
        2 * len(up)
    )
    area = float(of_up.mean())
    influence = np.empty(len(scores))
    influence[positive] = (of_up - area) / len(up)
    influence[~positive] = (of_down - area) / len(down)
    return area, influence


def average_precision(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Area under precision-recall (as scikit-learn's `average_precision_score`) and each row's influence (n,)."""
    order = np.argsort(-scores, kind="stable")
    hit, sorted_scores = positive[order], scores[order]
    # Rows of equal score enter together: all read the counts at the end of their tie.
    end = np.searchsorted(-sorted_scores, -sorted_scores, "right") - 1
    hits, seen = np.cumsum(hit)[end], end + 1.0
    precision, total = hits / seen, hit.sum()
    area = float(precision[hit].sum() / total)
    # ∂/∂weight of row j: its own precision, plus what it changes in the precision of every hit at or below it.
    begin = np.searchsorted(-sorted_scores, -sorted_scores, "left")
    below_hits, below_seen = (
        tail_sums(np.where(hit, 1 / seen, 0), begin),
        tail_sums(np.where(hit, hits / seen**2, 0), begin),
    )
    moved = (np.where(hit, precision - area + below_hits, 0) - below_seen) / total
    influence = np.empty(len(scores))
    influence[order] = moved
    return area, influence


def tail_sums(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Σ values[begin:], for each begin."""
    return np.cumsum(values[::-1])[::-1][begin]


def roc_points(positive: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    hits, misses, thresholds = counts(positive, scores)
    return thin(
        {
            "false_positive_rate": np.r_[0.0, misses / max(misses[-1], 1)],
            "true_positive_rate": np.r_[0.0, hits / max(hits[-1], 1)],
            "threshold": np.r_[1.0, thresholds],
        }
    )


def pr_points(positive: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    hits, misses, thresholds = counts(positive, scores)
    precision = hits / (hits + misses)
    return thin(
        {
            "recall": np.r_[0.0, hits / max(hits[-1], 1)],
            "precision": np.r_[precision[0], precision],
            "threshold": np.r_[1.0, thresholds],
        }
    )


def counts(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    hits, sorted_scores = np.cumsum(positive[order]), scores[order]
    last = np.r_[np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1]
    return hits[last], last + 1 - hits[last], sorted_scores[last]


def thin(curve: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The corners of the drawn line, if they are few; else `POINTS` points, spread evenly along it."""
    x, y = list(curve.values())[:2]
    turns = np.r_[True, np.diff(x)[:-1] * np.diff(y)[1:] != np.diff(x)[1:] * np.diff(y)[:-1], True][: len(x)]
    curve = {name: values[turns] for name, values in curve.items()}
    x, y = list(curve.values())[:2]
    if len(x) > 2 * POINTS:
        length = np.r_[0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y)))]
        keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(x) - 1))
        keep = np.unique(np.r_[0, keep, len(x) - 1])
        curve = {name: values[keep] for name, values in curve.items()}
    return {name: [round(float(value), 5) for value in values] for name, values in curve.items()}


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How far confidence can be believed: bins of equal width, and their mean gap (ECE; Guo et al. 2017, eq. 3) and largest gap."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    sure, hits = np.bincount(bins, confidence, BINS), np.bincount(bins, right, BINS)
    parts, gaps = [], []
    for index in np.flatnonzero(rows):
        count, mean, share = int(rows[index]), sure[index] / rows[index], hits[index] / rows[index]
        low, high = wilson(hits[index], count)
        gaps.append((count, abs(mean - share)))
        parts.append(
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "rows": count,
                "confidence": float(mean),
                "accuracy": float(share),
                "low": low,
                "high": high,
            }
        )
    total = sum(count for count, _ in gaps)
    return {
        "ece": sum(count * gap for count, gap in gaps) / total if total else None,
        "max_gap": max((float(gap) for count, gap in gaps if count >= ENOUGH), default=None),
        "mean_confidence": float(confidence.mean()) if len(confidence) else None,
        "bins": parts,
    }
