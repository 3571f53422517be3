"""Which rows of a dataset a model is measured on, and whether it may have seen them in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidInput, did_you_mean
from ..data.schema import SPLIT

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..zoo.manifest import Manifest

SPLITS = ("train", "validation", "test", "all")


@dataclass
class Chosen:
    """`notes` are for the reader; `warnings` say that the figures may be better than the truth."""

    rows: np.ndarray
    split: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose_rows(dataset: Dataset, split: str, manifests: Mapping[str, Manifest]) -> Chosen:
    """Rows of `split`. Without a split column: the test rows that training held out, if it used this version; else all rows.

    `manifests`: of every model that is measured, by its name.
    """
    if split not in SPLITS:
        raise InvalidInput(
            "there is no such split", received=split, expected=", ".join(SPLITS), fix=did_you_mean(split, SPLITS)
        )
    if split == "all":
        chosen = Chosen(np.arange(dataset.num_rows), "all")
        chosen.warnings += [
            f"{name} was trained on rows of this dataset, and all of them are measured here."
            for name in trained_on(dataset, manifests)
        ]
    elif SPLIT in dataset.schema:
        chosen = Chosen(np.asarray(dataset.rows(split), np.int64), split)
        chosen.warnings += other_splits(dataset, manifests)
    else:
        chosen = held_out_rows(dataset, split, manifests)
    if chosen.split == "train":
        chosen.warnings.append(
            "These are training rows: the figures say how well they were learned, not how new rows will fare."
        )
    if not len(chosen.rows):
        raise InvalidInput(
            f"{dataset.ref} has no rows in the split {split!r}",
            fix=f"Split it with: lep data split {dataset.name} --test 0.2; or measure all rows with --split all.",
        )
    return chosen


def held_out_rows(dataset: Dataset, split: str, manifests: Mapping[str, Manifest]) -> Chosen:
    """The dataset has no split column: training has split this version by chance, by the recipe, or has not seen it."""
    names = trained_on(dataset, manifests)
    if not names:
        note = f"{dataset.ref} has no split column, so all its rows are measured."
        related = [name for name, manifest in manifests.items() if lineage_name(manifest) == dataset.name]
        warnings = [
            f"{name} was trained on another version of {dataset.name}; some of these rows may have been in it."
            for name in related
        ]
        return Chosen(np.arange(dataset.num_rows), "all", [note], warnings)
    held = {name: held_out(dataset, split, manifests[name]) for name in names}
    known = [rows for rows in held.values() if rows is not None]
    if len(known) == len(names) and all(np.array_equal(rows, known[0]) for rows in known[1:]):
        note = (
            f"{dataset.ref} has no split column; these are the rows that the recipe of {names[0]} held out as {split}."
        )
        return Chosen(known[0], split, [note])
    warning = f"{dataset.ref} has no split column and {' and '.join(names)} learned from it: all its rows are measured, those that were learned from too."
    return Chosen(
        np.arange(dataset.num_rows),
        "all",
        [],
        [warning + f" Split it first with: lep data split {dataset.name} --test 0.2."],
    )


def held_out(dataset: Dataset, split: str, manifest: Manifest) -> np.ndarray | None:
    """Rows that the training of this model held out of this version, computed again from the settings in its lineage."""
    from ..train.rows import parts_of

    settings = manifest.lineage.get("split")
    if not isinstance(settings, Mapping) or not {"test", "validation", "seed", "stratify"} <= set(settings):
        return None
    if settings["stratify"] is not None and settings["stratify"] not in dataset.schema:
        return None
    return parts_of(dataset, settings)[split]


def trained_on(dataset: Dataset, manifests: Mapping[str, Manifest]) -> list[str]:
    """Models whose training data was this very version."""
    return [name for name, manifest in manifests.items() if manifest.lineage.get("data_hash") == dataset.content_hash]


def other_splits(dataset: Dataset, manifests: Mapping[str, Manifest]) -> list[str]:
    """Warnings about models that were trained on an earlier version with a split of their own, which this one does not follow."""
    return [
        f"{name} was trained before {dataset.name} was split, with a split of its own: it may have learned from some of these rows."
        for name, manifest in manifests.items()
        if lineage_name(manifest) == dataset.name and isinstance(manifest.lineage.get("split"), Mapping)
    ]


def lineage_name(manifest: Manifest) -> Any:
    data = manifest.lineage.get("data")
    return data.split("@")[0] if isinstance(data, str) else None
