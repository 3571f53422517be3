"""Every task by name, and which one suits a target. Adding a task: one file with one subclass of Task, and one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..base.errors import InvalidInput, did_you_mean
from ..data.schema import SPLIT, Column, Schema

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from .task import Task

# name: (module in tasks/, class)
TASKS: dict[str, tuple[str, str]] = {
    "tabular-regression": ("tabular_regression", "TabularRegression"),
    "tabular-classification": ("tabular_classification", "TabularClassification"),
    "image-classification": ("image_classification", "ImageClassification"),
    "text-classification": ("text_classification", "TextClassification"),
}
# Names that people give to what they want to predict, in the order of preference.
USUAL_TARGETS = ("target", "label", "class", "y", "category", "intent", "sentiment")

# Free text says more of a label than this many other columns (an id, a source, a date); beside more, it is a table with notes.
BESIDE_TEXT = 2


def task_class(name: str) -> type[Task]:
    if name not in TASKS:
        raise InvalidInput("there is no such task", received=name, fix=did_you_mean(str(name), TASKS))
    module, cls = TASKS[name]
    return getattr(importlib.import_module(f".{module}", __package__), cls)


def choose_target(schema: Schema, target: str | None) -> Column:
    """The target's column; with None, the one with a usual name, or else the last one."""
    if target is not None:
        if target not in schema:
            raise InvalidInput(
                "there is no such target column", received=target, fix=did_you_mean(target, schema.names)
            )
        return schema[target]
    for name in USUAL_TARGETS:
        if name in schema:
            return schema[name]
    columns = [column for column in schema if column.name != SPLIT]
    if len(columns) < 2:
        raise InvalidInput("a task needs a target and at least one other column", received=schema.names)
    return columns[-1]


def choose_inputs(schema: Schema, target: Column, names: list[str] | tuple[str, ...] | None) -> tuple[Column, ...]:
    """The named input columns, or all but the target and the split; raise InvalidInput for an unknown name."""
    for name in names or ():
        if name not in schema:
            raise InvalidInput("there is no such input column", received=name, fix=did_you_mean(name, schema.names))
        if name == target.name:
            raise InvalidInput(
                "the target cannot be an input too", received=name, fix=f"Take {name!r} out of the inputs."
            )
    wanted = list(names) if names else [column.name for column in schema if column.name not in (target.name, SPLIT)]
    if not wanted:
        raise InvalidInput(
            "there is no input column", received=schema.names, expected="at least one column besides the target"
        )
    return tuple(schema[name] for name in wanted)


def infer_task(dataset: Dataset, target: str | None = None) -> str:
    """The task that suits this target: by the inputs' types, then by whether the target is a quantity or a label."""
    column = choose_target(dataset.schema, target)
    others = [c for c in dataset.schema if c.name not in (column.name, SPLIT)]
    if any(c.type == "image" for c in others):
        return "image-classification"
    if column.type in ("number", "integer") and _is_quantity(dataset, column):
        return "tabular-regression"
    texts = sum(c.type == "text" for c in others)
    if texts and len(others) - texts <= BESIDE_TEXT:
        return "text-classification"
    return "tabular-classification"


def _is_quantity(dataset: Dataset, column: Column) -> bool:
    """Numbers with fractions or many values are measured; a few whole numbers are labels."""
    import numpy as np

    from .arrays import floats

    values = floats(dataset.columns([column.name])[column.name])
    values = values[np.isfinite(values)]
    distinct = np.unique(values)
    if column.type == "number" and (distinct != np.round(distinct)).any():
        return True
    return len(distinct) > min(100, max(10, len(values) ** 0.5 / 2))
