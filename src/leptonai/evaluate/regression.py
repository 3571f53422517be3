"""Measures of a regression on plain arrays, in the target's unit: headline metrics with intervals, residuals, errors along the target."""

from __future__ import annotations

from typing import Any

import numpy as np

from .intervals import RESAMPLES, Estimate, percentile_interval, resample_count, resamples

SCATTER = 600
HISTOGRAM = 41


def report_regression(
    truth: np.ndarray, outputs: np.ndarray, *, seed: int = 0, count: int = RESAMPLES
) -> dict[str, Any]:
    """`truth` and `outputs`: (n,) float64, finite. A residual is predicted − true."""
    truth, outputs = np.asarray(truth, np.float64), np.asarray(outputs, np.float64)
    return {
        "metrics": {name: value.to_dict() for name, value in headline(truth, outputs, seed, count).items()},
        "resamples": resample_count(len(truth), count),
        "residuals": residuals(truth, outputs, seed),
        "by_target": by_target(truth, outputs),
    }


def headline(truth: np.ndarray, outputs: np.ndarray, seed: int, count: int) -> dict[str, Estimate]:
    """rmse, mae, median_error, and where they mean something r2 (the target varies) and mape (no true value is 0)."""
    rows = len(truth)
    error = outputs - truth
    # R² from sums about the mean of all rows: sums of raw squares would lose the digits that matter.
    centred = truth - truth.mean()
    relative = np.abs(error / truth) if (truth != 0).all() else np.zeros(rows)
    # Each column in units of its own mean, because weights are summed in float32.
    columns = np.column_stack([error**2, np.abs(error), centred, centred**2, relative])
    units = np.maximum(np.abs(columns).mean(0), 1e-300)
    scaled = (columns / units).astype(np.float32)
    order = np.argsort(np.abs(error), kind="stable")
    by_size = np.abs(error)[order]

    def measure(means: np.ndarray, median: np.ndarray) -> dict[str, np.ndarray]:
        square, absolute, first, second, share = means.T
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - square / (second - first**2)
        return {"rmse": np.sqrt(square), "mae": absolute, "median_error": median, "r2": r2, "mape": share}

    point = measure(columns.mean(0)[None], np.array([np.median(by_size)]))
    parts = []
    for block in resamples(rows, resample_count(rows, count), seed):
        middle = (np.cumsum(block[:, order], 1) >= rows / 2).argmax(1)
        parts.append(measure((block @ scaled).astype(np.float64) / rows * units, by_size[middle]))
    meaningful = {"r2": bool((centred != 0).any()) and rows > 1, "mape": bool((truth != 0).all())}
    found = {}
    for name, value in point.items():
        if meaningful.get(name, True):
            low, high = percentile_interval(np.concatenate([part[name] for part in parts]))
            found[name] = Estimate(float(value[0]), min(low, value[0]), max(high, value[0]))
    return found


def residuals(truth: np.ndarray, outputs: np.ndarray, seed: int) -> dict[str, Any]:
    """Histogram of predicted − true (its tails beyond the outer 0.5 % go into the outer bins), and points to draw."""
    error = outputs - truth
    low, high = np.percentile(error, [0.5, 99.5])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, HISTOGRAM + 1)
    rows, _ = np.histogram(np.clip(error, low, high), edges)
    chosen = np.arange(len(truth))
    if len(truth) > SCATTER:
        chosen = np.sort(np.random.default_rng(seed).choice(len(truth), SCATTER, replace=False))
    return {
        "mean": float(error.mean()),
        "edges": edges.tolist(),
        "rows": rows.tolist(),
        "points": {"true": truth[chosen].tolist(), "predicted": outputs[chosen].tolist()},
    }


def by_target(truth: np.ndarray, outputs: np.ndarray) -> list[dict[str, Any]]:
    """Errors by tenths of the true value: where on its scale the model is wrong, and to which side."""
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, 11)))
    place = np.clip(np.searchsorted(edges, truth, "right") - 1, 0, max(len(edges) - 2, 0))
    error = outputs - truth
    parts = []
    for index in np.unique(place):
        inside = error[place == index]
        parts.append(
            {
                "from": float(edges[index]),
                "to": float(edges[min(index + 1, len(edges) - 1)]),
                "rows": len(inside),
                "mae": float(np.abs(inside).mean()),
                "rmse": float(np.sqrt((inside**2).mean())),
                "bias": float(inside.mean()),
            }
        )
    return parts
