"""Which rows train, which choose, which are only measured. The dataset's column `split` decides; without it, the recipe's shares do.

A pure function of the dataset version and of what the lineage of a model keeps, so an evaluation finds the same rows again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidInput
from ..data.schema import SPLIT

if TYPE_CHECKING:
    from ..data.dataset import Dataset

Parts = dict[str, np.ndarray]
"""Row numbers (int64, ascending) of `train`, `validation` and `test`."""
LABELS = ("category", "boolean", "integer", "text")


def split_settings(dataset: Dataset, shares: Mapping[str, Any], target: str, labels: bool) -> dict[str, Any] | None:
    """What the lineage keeps: None if the dataset says itself which row is what. `labels`: the target has classes."""
    if SPLIT in dataset.schema:
        return None
    return {**shares, "stratify": target if labels else None}


def parts_of(dataset: Dataset, settings: Mapping[str, Any] | None) -> Parts:
    """The rows of each part. Raises InvalidInput if none are left for training."""
    if settings is None:
        parts = {name: np.asarray(dataset.rows(name), np.int64) for name in ("train", "validation", "test")}
    else:
        parts = _split(dataset, settings)
    if not len(parts["train"]):
        raise InvalidInput(
            f"dataset {dataset.ref} has no rows to train on",
            received=", ".join(f"{len(rows)} {name}" for name, rows in parts.items()),
            fix=f"See what it holds: lep data show {dataset.name}.",
        )
    return parts


def _split(dataset: Dataset, settings: Mapping[str, Any]) -> Parts:
    from ..data.splits import split_rows

    test, validation, seed = settings["test"], settings["validation"], settings["seed"]
    if dataset.num_rows == 0 or test + validation == 0:
        none = np.empty(0, np.int64)
        return {"train": np.arange(dataset.num_rows), "validation": none, "test": none}
    if settings["stratify"]:
        numbers = _split_labels(dataset, settings["stratify"], test, validation, seed)
    else:
        numbers = split_rows(dataset.num_rows, test, validation, seed)
    return {name: np.flatnonzero(numbers == code) for code, name in enumerate(("train", "validation", "test"))}


def _split_labels(dataset: Dataset, column: str, test: float, validation: float, seed: int) -> np.ndarray:
    """(n,) int8 of parts: every class in every part in its share. A class with too few rows for that is learned from, whole."""
    import pyarrow.compute as pc

    from ..data.splits import TRAIN, split_rows, split_stratified

    values = dataset.table([column]).column(column).combine_chunks()
    found = pc.fill_null(pc.dictionary_encode(values).indices, -1)
    codes = found.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(codes + 1, minlength=2)[1:]
    rare = np.isin(codes, np.flatnonzero(counts < 1 + (test > 0) + (validation > 0)))
    kept = np.unique(codes[~rare & (codes >= 0)])
    numbers = np.full(len(codes), TRAIN, np.int8)
    if len(kept):
        codes = np.where(codes >= 0, np.searchsorted(kept, codes), -1)
        names = [str(code) for code in kept]
        numbers[~rare] = split_stratified(codes[~rare], names, test, validation, seed, column)
    elif (~rare).any():
        numbers[~rare] = split_rows(int((~rare).sum()), test, validation, seed)
    return numbers
