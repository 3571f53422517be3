"""Which dataset an array came from, and how it was scaled: proven by finding its rows, or not claimed at all.

A script scales its own images (`x / 255`). A served model must do the same, so the scale is not taken on trust: an affine map of
raw pixels to the array's values must reproduce whole rows of a stored dataset, with one label for every class number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..base.home import Home
    from ..data.dataset import Dataset

# (scale, offset) that scripts use; others are derived from the distinct values of the array.
USUAL_SCALES = (
    (1.0, 0.0),
    (1 / 255, 0.0),
    (2 / 255, -1.0),
    (1 / 127.5, -1.0),
    (1 / 256, 0.0),
    (1 / 16, 0.0),
    (1 / 15, 0.0),
)
ROWS, ROWS_PER_CLASS, FEWEST = 96, 3, 8


@dataclass(frozen=True)
class Sample:
    """Some rows of what `fit(x, y)` received: `x` (k, …) as the network saw them, `y` (k,) class numbers."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Match:
    """`columns[input][rows] * scale + offset` is `sample.x[sample_rows]`, and class number i is `labels[i]`."""

    dataset: Dataset
    input: str
    target: str
    scale: float
    offset: float
    rows: np.ndarray
    sample_rows: np.ndarray
    labels: list[Any]


def take_sample(x: Any, y: Any) -> Sample | None:
    """A few rows of arrays, tensors or frames: spread over all rows, some of each class. None if these are no such data."""
    x, y = _array(x), _array(y)
    if x is None or y is None or len(x) != len(y) or not len(x) or x.dtype.kind not in "uif":
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        y = y.argmax(1)
    y = y.reshape(len(y), -1)[:, 0]
    if y.dtype.kind not in "uifb" or (y < 0).any() or (y != np.round(y)).any():
        return None
    y = y.astype(np.int64)
    chosen = set(np.linspace(0, len(x) - 1, ROWS).astype(int).tolist())
    for number in np.unique(y)[:1000]:
        chosen |= set(np.flatnonzero(y == number)[:ROWS_PER_CLASS].tolist())
    rows = np.array(sorted(chosen))
    return Sample(np.array(x[rows]), y[rows])


def find_dataset(sample: Sample, classes: int, home: Home | None, ref: str | None = None) -> Match | None:
    """The dataset (`ref`, or the newest version of any that has such images) whose rows the sample is made of."""
    from ..data.dataset import list_datasets, open_dataset

    candidates: Iterable[Dataset] = [open_dataset(ref, home)] if ref else list_datasets(home)
    for dataset in candidates:
        for column in dataset.schema:
            if column.type == "image" and (match := match_images(sample, classes, dataset, column.name)):
                return match
    return None


def match_images(sample: Sample, classes: int, dataset: Dataset, name: str) -> Match | None:
    """Compare with the raw pixels of one image column; None if rows, scale or labels cannot be proven."""
    pixels = dataset.columns([name])[name]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels[:1].size != sample.x[:1].size:
        return None
    flat = pixels.reshape(len(pixels), -1)
    layouts = [sample.x.reshape(len(sample.x), -1)]
    if sample.x.ndim == 4 and sample.x.shape[1] == pixels.shape[-1]:
        layouts.append(np.moveaxis(sample.x, 1, -1).reshape(len(sample.x), -1))
    signatures = _signatures(flat)
    for values in layouts:
        for scale, offset in [*USUAL_SCALES, *_derived_scales(values)]:
            raw = _unscaled(values, scale, offset)
            found = None if raw is None else _find_rows(raw, flat, signatures)
            if found and (match := _with_labels(sample, classes, dataset, name, scale, offset, found)):
                return match
    return None


def _unscaled(values: np.ndarray, scale: float, offset: float) -> np.ndarray | None:
    """The uint8 pixels that this scale would have come from, or None if they are not whole numbers from 0 to 255."""
    pixels = (values.astype(np.float64) - offset) / scale
    whole = np.round(pixels)
    if np.abs(pixels - whole).max() > 1e-2 or whole.min() < 0 or whole.max() > 255:
        return None
    return whole.astype(np.uint8)


def _derived_scales(values: np.ndarray) -> list[tuple[float, float]]:
    """Of a standardisation `(x - mean) / deviation`: the lowest value is pixel 0, the smallest step one grey level."""
    distinct = np.unique(values.astype(np.float64))
    if not 2 <= len(distinct) <= 256 * 4 or not np.isfinite(distinct).all():
        return []
    steps = np.diff(distinct)
    span = distinct[-1] - distinct[0]
    # Float noise splits one level into neighbours; a real step is at least a 256th of the range.
    levels = round(span / steps[steps > span / 1000].min())
    return [(span / levels, float(distinct[0]))] if 1 <= levels <= 255 else []


def _signatures(flat: np.ndarray) -> np.ndarray:
    """One uint64 per row: a random linear form modulo 2^64, so that equal rows have equal signatures."""
    weights = np.random.default_rng(0).integers(1, 1 << 63, flat.shape[1], dtype=np.uint64)
    return np.concatenate([flat[start : start + 4096] @ weights for start in range(0, max(len(flat), 1), 4096)])


def _find_rows(raw: np.ndarray, flat: np.ndarray, signatures: np.ndarray) -> list[np.ndarray] | None:
    """For every row of `raw` the equal rows of the dataset; None unless each has one. Blank rows prove nothing and find nothing."""
    order = np.argsort(signatures, kind="stable")
    ranked, wanted = signatures[order], _signatures(raw)
    left, right = np.searchsorted(ranked, wanted, "left"), np.searchsorted(ranked, wanted, "right")
    found = [np.sort(order[a:b]) for a, b in zip(left, right, strict=True)]
    telling = [bool((row != row[0]).any()) for row in raw]
    if sum(telling) < min(FEWEST, len(raw)):
        return None
    for row, rows in zip(raw, found, strict=True):
        if not len(rows) or not np.array_equal(flat[rows[0]], row):
            return None
    return [rows if tells else rows[:0] for rows, tells in zip(found, telling, strict=True)]


def _with_labels(
    sample: Sample, classes: int, dataset: Dataset, name: str, scale: float, offset: float, found: Sequence[np.ndarray]
) -> Match | None:
    """Complete the match by the column in which every class number has one label."""
    from ..tasks.labels import values

    for column in dataset.schema:
        if column.type not in ("integer", "category", "text", "boolean", "number") or column.name == "split":
            continue
        labels = values(dataset.columns([column.name])[column.name], np.arange(dataset.num_rows))
        named = _class_labels(sample, classes, found, labels)
        if named is not None:
            which = np.array([number for number, rows in enumerate(found) if len(rows)])
            rows = np.array([found[number][0] for number in which], np.int64)
            return Match(dataset, name, column.name, scale, offset, rows, which, named)
    return None


def _class_labels(sample: Sample, classes: int, found: Sequence[np.ndarray], labels: Sequence[Any]) -> list[Any] | None:
    """The label of each class number, or None if the column does not tell. Equal images may bear different labels."""
    options: dict[int, set[Any]] = {}
    for number, rows in zip(sample.y.tolist(), found, strict=True):
        if len(rows):
            seen = {labels[row] for row in rows}
            options[number] = options.get(number, seen) & seen
    if any(len(choice) != 1 or None in choice for choice in options.values()):
        return None
    known = {number: next(iter(choice)) for number, choice in options.items()}
    if len(set(known.values())) != len(known) or len(known) < 2:
        return None
    if len(known) < classes:
        # A class that these rows lack: only if the script numbers its classes in the order of the labels.
        ordered = sorted({label for label in labels if label is not None}, key=lambda label: (str(type(label)), label))
        if len(ordered) != classes or any(ordered[number] != label for number, label in known.items()):
            return None
        return ordered
    return [known[number] for number in range(classes)] if set(known) == set(range(classes)) else None


def _array(value: Any) -> np.ndarray | None:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    elif hasattr(value, "numpy") and not isinstance(value, np.ndarray):
        value = value.numpy()
    return value if isinstance(value, np.ndarray) and value.ndim else None
