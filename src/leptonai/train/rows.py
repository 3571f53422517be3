"""Which rows train, which choose, which are only measured. The dataset's column `split` decides; without it, the recipe's shares do.

A pure function of the dataset version and of what the lineage of a model keeps, so an evaluation finds the same rows again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidInput
from ..data.schema import SPLIT
from ..data.splits import PART_NAMES, TRAIN, VALIDATION, split_rows, split_stratified

if TYPE_CHECKING:
    from ..data.dataset import Dataset

Parts = dict[str, np.ndarray]
"""Row numbers (int64, ascending) of `train`, `validation` and `test`."""


def split_settings(dataset: Dataset, shares: Mapping[str, Any], labels: str | None) -> dict[str, Any] | None:
    """What the lineage keeps: None if the dataset says itself which row is what. `labels`: the target, if it has classes."""
    return None if SPLIT in dataset.schema else {**shares, "stratify": labels}


def parts_of(dataset: Dataset, settings: Mapping[str, Any] | None) -> Parts:
    """The rows of each part. Raises InvalidInput if none are left for training."""
    if settings is None:
        parts = {name: np.asarray(dataset.rows(name), np.int64) for name in PART_NAMES}
    else:
        parts = _split(dataset, settings)
    if not len(parts["train"]):
        raise InvalidInput(
            f"dataset {dataset.ref} has no rows to train on",
            received=", ".join(f"{len(rows)} {name}" for name, rows in parts.items()),
            fix=f"See what it holds: lep data show {dataset.name}.",
        )
    return parts


def carve_validation(dataset: Dataset, parts: Parts, share: float, seed: int, stratify: str | None) -> Parts:
    """For a dataset whose own split has no validation rows: `share` of its training rows. Its test rows are never touched."""
    rows = parts["train"]
    if len(parts["validation"]) or share == 0 or len(rows) < 2:
        return parts
    numbers = _numbers(dataset, rows, 0.0, share, seed, stratify)
    return {**parts, "train": rows[numbers == TRAIN], "validation": rows[numbers == VALIDATION]}


def _split(dataset: Dataset, settings: Mapping[str, Any]) -> Parts:
    test, validation = settings["test"], settings["validation"]
    rows = np.arange(dataset.num_rows)
    if dataset.num_rows == 0 or test + validation == 0:
        return {"train": rows, "validation": rows[:0], "test": rows[:0]}
    numbers = _numbers(dataset, rows, test, validation, settings["seed"], settings["stratify"])
    return {name: np.flatnonzero(numbers == code) for code, name in enumerate(PART_NAMES)}


def _numbers(
    dataset: Dataset, rows: np.ndarray, test: float, validation: float, seed: int, stratify: str | None
) -> np.ndarray:
    """(n,) int8 of parts of `rows`: every class in every part in its share. A class with too few rows for that is learned from, whole."""
    if stratify is None:
        return split_rows(len(rows), test, validation, seed)
    import pyarrow.compute as pc

    values = dataset.table([stratify]).column(stratify).combine_chunks()
    found = pc.fill_null(pc.dictionary_encode(values).indices, -1)
    codes = found.to_numpy(zero_copy_only=False).astype(np.int64)[rows]
    counts = np.bincount(codes + 1, minlength=2)[1:]
    rare = np.isin(codes, np.flatnonzero(counts < 1 + (test > 0) + (validation > 0)))
    kept = np.unique(codes[~rare & (codes >= 0)])
    numbers = np.full(len(codes), TRAIN, np.int8)
    if len(kept):
        codes = np.where(codes >= 0, np.searchsorted(kept, codes), -1)
        names = [str(code) for code in kept]
        numbers[~rare] = split_stratified(codes[~rare], names, test, validation, seed, stratify)
    elif (~rare).any():
        numbers[~rare] = split_rows(int((~rare).sum()), test, validation, seed)
    return numbers
