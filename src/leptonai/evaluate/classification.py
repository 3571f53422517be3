"""Measures of a classification on plain arrays: headline metrics with intervals, per class, confusion, curves, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .curves import average_precision, calibration, pr_points, roc_area, roc_points
from .intervals import RESAMPLES, Estimate, percentile_interval, proportion, resample_count, resamples, wilson

UNKNOWN = "(not known to the model)"
# A confusion matrix of more classes is kept as its largest cells only.
MATRIX_CLASSES = 150
CURVES = 10


def report_classification(
    truth: np.ndarray, outputs: np.ndarray, classes: Sequence[Any], *, seed: int = 0, count: int = RESAMPLES
) -> dict[str, Any]:
    """`truth`: (n,) int64, −1 for a label that the model never saw: an error, and left out of what needs probabilities.

    `outputs`: (n, classes) probabilities. Precision, recall and F1 are macro averages over the classes that occur, as scikit-learn's.
    """
    outputs = np.asarray(outputs, np.float64)
    predicted = outputs.argmax(1)
    areas = class_areas(truth, outputs)
    return {
        "metrics": {name: value.to_dict() for name, value in headline(truth, outputs, areas, seed, count).items()},
        "resamples": resample_count(len(truth), count),
        "per_class": per_class(truth, predicted, classes, areas),
        "confusion": confusion(truth, predicted, classes),
        "curves": curves(truth, outputs, classes, areas),
        "calibration": calibration(outputs.max(1), truth == predicted),
    }


def losses(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """−log of the probability of the true class, per row; of an unknown label: that of a probability of 1e-15."""
    known = truth >= 0
    of_truth = np.full(len(truth), 1e-15)
    of_truth[known] = outputs[known, truth[known]]
    return -np.log(np.clip(of_truth, 1e-15, 1))


class Area:
    """One class against the rest, on the rows whose label is known: areas and influences (n,)."""

    def __init__(self, known: np.ndarray, positive: np.ndarray, scores: np.ndarray):
        self.roc, roc_influence = roc_area(positive, scores)
        self.average_precision, ap_influence = average_precision(positive, scores)
        self.influence = np.zeros((len(known), 2), np.float64)
        self.influence[known, 0], self.influence[known, 1] = roc_influence, ap_influence


def class_areas(truth: np.ndarray, outputs: np.ndarray) -> dict[int, Area]:
    """Areas of the classes that have rows of both kinds; of two classes only the second, which is the positive one."""
    known = truth >= 0
    labels, scores = truth[known], outputs[known]
    numbers = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    rows = np.bincount(labels, minlength=outputs.shape[1])
    return {k: Area(known, labels == k, scores[:, k]) for k in numbers if 0 < rows[k] < len(labels)}


def headline(
    truth: np.ndarray, outputs: np.ndarray, areas: dict[int, Area], seed: int, count: int
) -> dict[str, Estimate]:
    """accuracy, precision, recall, f1, log_loss, brier, roc_auc, average_precision: those that the rows allow."""
    rows, known, predicted = len(truth), truth >= 0, outputs.argmax(1)
    right = truth == predicted
    # Column 0 of the class counts is the unknown label, so that it is a class that is never found.
    width = outputs.shape[1] + 1
    true_, guessed = one_hot(truth + 1, width), one_hot(predicted + 1, width)
    hits = true_ * right[:, None]
    target = one_hot(truth + 1, width)[:, 1:]
    sums = np.column_stack(
        [
            known,
            np.where(known, losses(truth, outputs), 0),
            np.where(known, ((outputs - target) ** 2).sum(1), 0),
            *mean_influences(areas),
        ]
    ).astype(np.float32)

    def measure(weights: np.ndarray) -> np.ndarray:
        macro = macro_scores(weights @ hits, weights @ true_, weights @ guessed)
        totals = weights @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            means = totals[:, 1:3] / totals[:, :1]
        return np.column_stack([macro, means, totals[:, 3:]])

    point = measure(np.ones((1, rows), np.float32))[0].astype(float)
    boot = np.concatenate([measure(block) for block in resamples(rows, resample_count(rows, count), seed)])
    found = {"accuracy": proportion(int(right.sum()), rows)}
    names = ["precision", "recall", "f1", "log_loss", "brier", "roc_auc", "average_precision"]
    if areas:
        point[5] = np.mean([area.roc for area in areas.values()])
        point[6] = np.mean([area.average_precision for area in areas.values()])
        boot[:, 5:] = np.clip(boot[:, 5:] + point[5:], 0, 1)
    exact = exact_means(known, truth, outputs)
    for index, name in enumerate(names[: boot.shape[1]]):
        value = exact.get(name, point[index])
        if not np.isfinite(value):
            continue
        low, high = percentile_interval(boot[:, index])
        if name in ("precision", "recall", "f1") and right.all():
            low = wilson(rows, rows)[0]  # no resample of faultless rows has a fault; the next row may
        found[name] = Estimate(float(value), min(low, value), max(high, value))
    return found


def exact_means(known: np.ndarray, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """The two means in float64: resamples are summed in float32."""
    if not known.any():
        return {}
    labels, scores = truth[known], outputs[known]
    square = (scores**2).sum(1) - 2 * scores[np.arange(len(labels)), labels] + 1
    return {"log_loss": float(losses(labels, scores).mean()), "brier": float(square.mean())}


def mean_influences(areas: dict[int, Area]) -> list[np.ndarray]:
    if not areas:
        return []
    mean = sum(area.influence for area in areas.values()) / len(areas)
    return [mean[:, 0], mean[:, 1]]


def one_hot(numbers: np.ndarray, width: int) -> np.ndarray:
    hot = np.zeros((len(numbers), width), np.float32)
    hot[np.arange(len(numbers)), numbers] = 1
    return hot


def macro_scores(hits: np.ndarray, true_: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """(b, 3): precision, recall and F1 from class counts (b, classes), each the mean over the classes that occur in that resample."""
    hits, true_, guessed = (part.astype(np.float64) for part in (hits, true_, guessed))
    present = (true_ + guessed) > 0
    scores = [
        hits / np.maximum(guessed, 1e-9),
        hits / np.maximum(true_, 1e-9),
        2 * hits / np.maximum(true_ + guessed, 1e-9),
    ]
    return np.column_stack([(score * present).sum(1) / np.maximum(present.sum(1), 1) for score in scores])


def per_class(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[Any], areas: dict[int, Area]
) -> list[dict[str, Any]]:
    """One entry per class that occurs; an unknown label has its own, last."""
    width = len(classes)
    right = truth == predicted
    known = truth >= 0
    support = np.bincount(truth[known], minlength=width)
    guessed = np.bincount(predicted, minlength=width)
    hits = np.bincount(predicted[right], minlength=width)
    entries = []
    for k in np.flatnonzero(support + guessed):
        precision, recall = proportion(hits[k], guessed[k]), proportion(hits[k], support[k])
        entry = {
            "class": classes[k],
            "support": int(support[k]),
            "predicted": int(guessed[k]),
            "precision": precision.to_dict() if guessed[k] else None,
            "recall": recall.to_dict() if support[k] else None,
            "f1": float(2 * hits[k] / (support[k] + guessed[k])),
        }
        if k in areas:
            entry |= {"roc_auc": areas[k].roc, "average_precision": areas[k].average_precision}
        entries.append(entry)
    if not known.all():
        missed = int((~known).sum())
        nothing = {"precision": None, "recall": proportion(0, missed).to_dict(), "f1": 0.0}
        entries.append({"class": UNKNOWN, "support": missed, "predicted": 0, **nothing})
    return entries


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[Any]) -> dict[str, Any]:
    """Rows are the true class, columns the predicted one. `most` are the largest confusions."""
    width = len(classes)
    labels = [*classes, *([UNKNOWN] if (truth < 0).any() else [])]
    lines = np.where(truth < 0, width, truth)
    cells = np.bincount(lines * width + predicted, minlength=len(labels) * width).reshape(len(labels), width)
    wrong = cells.copy()
    np.fill_diagonal(wrong[:width], 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    most = [
        {
            "true": labels[i // width],
            "predicted": classes[i % width],
            "rows": int(wrong.flat[i]),
            "share": float(wrong.flat[i] / cells[i // width].sum()),
        }
        for i in order
        if wrong.flat[i]
    ]
    return {
        "labels": labels,
        "predicted_labels": list(classes),
        "matrix": cells.tolist() if width <= MATRIX_CLASSES else None,
        "most": most,
    }


def curves(
    truth: np.ndarray, outputs: np.ndarray, classes: Sequence[Any], areas: dict[int, Area]
) -> list[dict[str, Any]]:
    """ROC and precision-recall of the classes that are hardest to tell from the rest (all, if they are few)."""
    known = truth >= 0
    hardest = sorted(areas, key=lambda k: areas[k].average_precision)[:CURVES]
    return [
        {
            "class": classes[k],
            "roc_auc": areas[k].roc,
            "average_precision": areas[k].average_precision,
            "share": float((truth[known] == k).mean()),
            "roc": roc_points(truth[known] == k, outputs[known, k]),
            "pr": pr_points(truth[known] == k, outputs[known, k]),
        }
        for k in (sorted(hardest) if len(areas) <= CURVES else hardest)
    ]
