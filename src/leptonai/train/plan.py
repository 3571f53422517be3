"""What a recipe means for this data: the task and its columns, the rows, the network, and every default made visible."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidInput, NotFound, did_you_mean
from ..nets.registry import check_options, network_class, options
from .recipe import Recipe
from .rows import Parts, carve_validation, parts_of, split_settings

if TYPE_CHECKING:
    from ..base.home import Home
    from ..data.dataset import Dataset
    from ..tasks.model import Model
    from ..tasks.task import Task
    from ..zoo.store import ModelEntry

# What a kind of network is trained with unless the recipe says otherwise; ANY for what a kind does not say.
ANY = {
    "epochs": 20, "batch": 64, "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05,
    "weight_decay": 0.01, "label_smoothing": 0.0, "early_stop": {"patience": 5},
}  # fmt: skip
USUAL: dict[str, dict[str, Any]] = {
    "mlp": {"epochs": 60, "batch": 128, "learning_rate": 2e-3, "early_stop": {"patience": 10}},
    "cnn": {"epochs": 15, "batch": 128, "learning_rate": 3e-3, "schedule": "onecycle", "warmup": 0.2, "augment": True},
    "lstm": {"epochs": 15, "batch": 32, "learning_rate": 2e-3, "clip": 1.0},
    "gru": {"epochs": 15, "batch": 32, "learning_rate": 2e-3, "clip": 1.0},
    "transformer": {"epochs": 20, "batch": 32, "learning_rate": 5e-4, "warmup": 0.1, "clip": 1.0},
}
# A network that continues from trained weights would forget them at the full learning rate.
CONTINUED = 0.3
# Of the rows, for networks that choose their best epoch.
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Plan:
    """`recipe`: with the dataset's version, the parent's version and all defaults filled in. `task` is fitted."""

    recipe: Recipe
    dataset: Dataset
    task: Task
    parts: Parts
    split: dict[str, Any] | None
    kind: str
    parent: ModelEntry | None
    origin: Model | None
    unused: tuple[str, ...] = ()
    """Settings of the recipe that mean nothing to a network that is not trained in steps."""

    @property
    def learns_by_gradient(self) -> bool:
        return not _is_learner(self.kind)


def make_plan(recipe: Recipe, home: Home) -> Plan:
    """Raises NotFound or InvalidInput, before anything is computed, for what cannot be trained."""
    from ..tasks.registry import task_class

    cls = task_class(recipe.task)
    dataset = find_dataset(recipe.data.dataset, home)
    if dataset.num_rows == 0:
        raise InvalidInput(f"dataset {dataset.ref} has no rows", fix="Import a file with rows.")
    parent, origin = _parent(recipe, home)
    kind = recipe.model.kind or (origin.network.kind if origin else cls.networks[0])
    if kind not in cls.networks:
        fix = did_you_mean(kind, cls.networks)
        raise InvalidInput(f"task {cls.name} cannot train this kind of network", received=kind, fix=fix)
    check_options(kind, recipe.model.options)
    task = (
        _continued(recipe, origin, parent, kind, dataset)
        if origin
        else cls.plan(dataset, recipe.data.target, recipe.data.inputs, kind)
    )
    _check_targets(dataset, task.target.name)
    shares = recipe.data.split.model_dump()
    if shares["validation"] is None:
        shares["validation"] = 0.0 if _is_learner(kind) else VALIDATION_SHARE
    labels = task.target.name if _has_labels(task) else None
    split = split_settings(dataset, shares, labels)
    parts = carve_validation(dataset, parts_of(dataset, split), shares["validation"], shares["seed"], labels)
    columns = dataset.columns([column.name for column in (*task.inputs, task.target)])
    if origin:
        _check_known_labels(task, columns, parts["train"], parent)
    else:
        task.fit(columns, parts["train"])
    if recipe.train.augment and not _varies(task):
        raise InvalidInput(f"`train.augment`: task {task.name} has no way to vary its rows", fix="Leave it out.")
    resolved = _resolved(recipe, dataset, task, kind, parent, shares)
    return Plan(resolved, dataset, task, parts, split, kind, parent, origin, _unused(recipe, kind))


def _unused(recipe: Recipe, kind: str) -> tuple[str, ...]:
    if not _is_learner(kind):
        return ()
    given = recipe.train.model_dump(exclude_defaults=True)
    return tuple(name for name in given if name not in ("seed", "time_budget", "augment"))


def find_dataset(ref: str, home: Home) -> Dataset:
    from ..data.dataset import open_dataset

    try:
        return open_dataset(ref, home)
    except NotFound as error:
        if "@" in ref:
            raise
        fix = f"Import it: lep data import {ref} PATH."
        if error.fix and "PATH" not in error.fix:
            fix = f"{error.fix} Or import it: lep data import {ref} PATH."
        raise NotFound(error.what, received=error.received, expected=None, fix=fix) from None


def _parent(recipe: Recipe, home: Home) -> tuple[ModelEntry | None, Model | None]:
    if recipe.model.from_ is None:
        return None, None
    from ..tasks.model import Model
    from ..zoo.store import ModelStore

    entry = ModelStore(home).resolve(recipe.model.from_)
    if entry.manifest.task != recipe.task:
        raise InvalidInput(
            f"{entry.ref} cannot be continued in this recipe",
            received=f"its task {entry.manifest.task}",
            expected=f"`task: {recipe.task}`",
        )
    return entry, Model.load(entry.folder)


def _continued(recipe: Recipe, origin: Model, parent: ModelEntry, kind: str, dataset: Dataset) -> Task:
    """The parent's task as it is: same columns, same preprocessing, same classes."""
    task = origin.task
    config = origin.network.config
    other = {
        name: value
        for name, value in recipe.model.options.items()
        if config.get(name, options(kind).get(name)) != value
    }
    if kind != origin.network.kind or other:
        raise InvalidInput(
            f"{parent.ref} has another network", received={"kind": kind, **other}, expected=f"kind {origin.network.kind} as it was trained",
            fix="Leave the options of the network out, or train without `from`.",
        )  # fmt: skip
    asked = (recipe.data.target or task.target.name, tuple(recipe.data.inputs or [c.name for c in task.inputs]))
    if asked != (task.target.name, tuple(c.name for c in task.inputs)):
        raise InvalidInput(
            f"{parent.ref} was trained on other columns", received=asked, expected=f"target {task.target.name!r} from {[c.name for c in task.inputs]}",
            fix="Leave `target` and `inputs` out, or train without `from`.",
        )  # fmt: skip
    for column in (*task.inputs, task.target):
        if column.name not in dataset.schema:
            raise InvalidInput(
                f"{parent.ref} reads column {column.name!r}, which {dataset.ref} does not have",
                fix=did_you_mean(column.name, dataset.schema.names),
            )
    return task


def _check_targets(dataset: Dataset, target: str) -> None:
    """Raise InvalidInput if a row of any part has no target: nothing can be learned from it, and nothing measured."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = dataset.table([target]).column(target)
    missing = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)).to_numpy()
    rows = np.flatnonzero(missing)
    if len(rows):
        raise InvalidInput(
            f"the target {target!r} is missing in {len(rows):,} of {dataset.num_rows:,} rows, the first: {', '.join(map(str, rows[:5]))}",
            expected="a value in every row",
            fix=f"Fill in or drop the rows without {target!r}, and import the data again.",
        )


def _check_known_labels(task: Task, columns: Any, rows: np.ndarray, parent: ModelEntry) -> None:
    """A continued model keeps its classes: a new one would change what clients of the served model receive."""
    truth = task.truth(columns, rows)
    bad = rows[truth < 0] if task.classes is not None else rows[~np.isfinite(truth)]
    if len(bad):
        raise InvalidInput(
            f"{len(bad)} training rows have no target, or a label that {parent.ref} does not know; the first: {', '.join(map(str, bad[:5]))}",
            expected=f"one of its {len(task.classes)} classes" if task.classes is not None else "a number in every row",
            fix="Correct those rows, or train without `from` to learn the new classes.",
        )


def _varies(task: Task) -> bool:
    from ..tasks.task import Task as Base

    return type(task).augment is not Base.augment


def _has_labels(task: Task) -> bool:
    from ..tasks.classification import Classification

    return isinstance(task, Classification)


def _is_learner(kind: str) -> bool:
    from ..nets.learner import Learner

    return issubclass(network_class(kind), Learner)


def _resolved(
    recipe: Recipe, dataset: Dataset, task: Task, kind: str, parent: ModelEntry | None, shares: dict[str, Any]
) -> Recipe:
    """The recipe with nothing left open, so that it says all and trains the same again."""
    train = recipe.train.model_dump(by_alias=True, exclude_none=True)
    if not _is_learner(kind):
        usual = {**ANY, **USUAL.get(kind, {})}
        if parent is not None:
            usual["learning_rate"] *= CONTINUED
        train = {**usual, **train}
        train["augment"] = bool(train.get("augment")) and _varies(task)
        stop = dict(train["early_stop"])
        metric = stop.get("on") or f"validation.{task.metric}"
        train["early_stop"] = {"patience": ANY["early_stop"]["patience"], **stop, "on": metric}
    config = {**options(kind), **recipe.model.options} if parent is None else {}
    config = json.loads(json.dumps(config))  # as YAML will read it back: lists, not tuples
    model = {**config, "kind": kind, **({"from": parent.ref} if parent else {})}
    inputs = [column.name for column in task.inputs]
    data = {"dataset": dataset.ref, "target": task.target.name, "inputs": inputs, "split": shares}
    publish = None if recipe.publish is None else {"name": recipe.model_name}
    found = {
        **recipe.to_dict(),
        "data": {**recipe.model_dump(mode="json")["data"], **data},
        "model": model,
        "train": {**train, "checkpoint_every": recipe.train.checkpoint_every},
        "publish": publish and {**recipe.publish.model_dump(mode="json"), **publish},
    }
    return Recipe.model_validate(found)


def check_early_stop(plan: Plan) -> None:
    """Raise InvalidInput for a metric that the evaluation will not have."""
    stop = plan.recipe.train.early_stop
    if stop is None or not len(plan.parts["validation"]):
        return
    part, _, metric = stop.on.partition(".")
    if part != "validation" or not metric:
        raise InvalidInput(
            "`train.early_stop.on` is not measured",
            received=stop.on,
            expected="validation.<metric>, such as validation.loss",
        )
