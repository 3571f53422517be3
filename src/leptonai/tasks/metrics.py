"""Metrics, thin on scikit-learn: point values for tasks and reports, and the four functions that `leptonai` hands on."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.errors import InvalidInput


def classification_metrics(truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """`truth`: (n,) int64, −1 where the label is unknown to the model: it counts as an error, and is left out of probabilities.

    `outputs`: (n, classes) probabilities. Precision, recall and F1 are macro averages over the classes that occur.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, outputs = np.asarray(truth), np.asarray(outputs, np.float64)
    if not len(truth):
        raise InvalidInput("there are no rows to measure", fix="Give at least one row with a label.")
    predicted = outputs.argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    found = {
        "accuracy": float((truth == predicted).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }
    known = truth >= 0
    if known.any():
        of_truth = outputs[known, truth[known]]
        found["log_loss"] = float(-np.log(np.clip(of_truth, 1e-15, 1)).mean())
        area = roc_auc(truth[known], outputs[known])
        if area is not None:
            found["roc_auc"] = area
    return found


def roc_auc(truth: np.ndarray, outputs: np.ndarray) -> float | None:
    """Binary, or the mean over classes of one against the rest; None if no class has both kinds of rows."""
    from sklearn.metrics import roc_auc_score

    classes = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    areas = [
        roc_auc_score(truth == number, outputs[:, number])
        for number in classes
        if 0 < (truth == number).sum() < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def regression_metrics(truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """In the target's unit; `mape` is a fraction, absent if a true value is 0. Rows without a true value are left out."""
    truth, outputs = np.asarray(truth, np.float64), np.asarray(outputs, np.float64)
    known = np.isfinite(truth)
    truth, outputs = truth[known], outputs[known]
    if not len(truth):
        raise InvalidInput("there are no rows to measure", fix="Give at least one row with a target.")
    error = outputs - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    found = {"rmse": float(np.sqrt((error**2).mean())), "mae": float(np.abs(error).mean())}
    if spread > 0:
        found["r2"] = 1 - float((error**2).sum()) / spread
    if (truth != 0).all():
        found["mape"] = float(np.abs(error / truth).mean())
    return found


def mean_squared_error(truth: Any, predicted: Any) -> float:
    """Mean of (truth − predicted)². Lists, arrays and Series of the same length."""
    truth, predicted = _pair(truth, predicted)
    return float(((truth - predicted) ** 2).mean())


def mean_absolute_error(truth: Any, predicted: Any) -> float:
    """Mean of |truth − predicted|."""
    truth, predicted = _pair(truth, predicted)
    return float(np.abs(truth - predicted).mean())


def r2_score(truth: Any, predicted: Any) -> float:
    """1 − squared error / variance of the truth: 1 is exact, 0 is as good as the mean.

    Raises InvalidInput if all true values are equal: then it means nothing.
    """
    truth, predicted = _pair(truth, predicted)
    spread = float(((truth - truth.mean()) ** 2).sum())
    if spread == 0:
        raise InvalidInput(
            "R² needs true values that differ", received=f"{len(truth)} × {truth[0]:g}", fix="Use mean_absolute_error."
        )
    return 1 - float(((truth - predicted) ** 2).sum()) / spread


def accuracy_score(truth: Any, predicted: Any) -> float:
    """Fraction of labels that are equal. Labels of any one type: text, whole numbers, booleans."""
    truth, predicted = list(truth), list(predicted)
    _check_lengths(truth, predicted)
    for name, values in (("truth", truth), ("predicted", predicted)):
        _refuse_missing(name, np.array([v is None or v != v for v in values]))
    return sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(truth)


def _pair(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name, values in (("truth", truth), ("predicted", predicted)):
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"{name} must be numbers", received=values, expected="a list, an array or a Series"
            ) from error
        # A column vector (n, 1) is what many libraries predict for one target.
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim != 1:
            raise InvalidInput(
                f"{name} must be one value per row", received=f"shape {array.shape}", expected="shape (n,)"
            )
        arrays.append(array)
    _check_lengths(*arrays)
    for name, array in zip(("truth", "predicted"), arrays, strict=True):
        _refuse_missing(name, ~np.isfinite(array))
    return arrays[0], arrays[1]


def _check_lengths(truth: Any, predicted: Any) -> None:
    if len(truth) != len(predicted):
        raise InvalidInput(
            "truth and predicted must have the same length", received=f"{len(truth)} and {len(predicted)} values"
        )
    if not len(truth):
        raise InvalidInput("there is nothing to compare", received="0 values", expected="at least 1")


def _refuse_missing(name: str, missing: np.ndarray) -> None:
    if missing.any():
        first = ", ".join(map(str, np.flatnonzero(missing)[:3]))
        raise InvalidInput(
            f"{name} has {int(missing.sum())} missing or infinite values, the first at position {first}",
            fix="Drop or fill these rows first.",
        )
