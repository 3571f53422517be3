"""The recipe of one training: task, data, model, training, tracking, publishing. Data only: no code can be in it.

One frozen tree is the only form after reading. `load_recipe` turns every mistake into a sentence with its line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..base.errors import InvalidInput
from ..base.paths import parse_ref
from ..base.yaml import Document, parse_yaml, read_yaml
from .fields import (
    Count,
    Name,
    NotNegative,
    OptimizerName,
    Part,
    Positive,
    Precision,
    Ref,
    ScheduleName,
    Seconds,
    Seed,
    Share,
    parse_duration,
)
from .methods.registry import Methods
from .mistakes import first_mistake

__all__ = ["Recipe", "load_recipe", "parse_duration", "parse_recipe", "read_recipe"]


class Split(Part):
    test: Share = 0.1
    """Share of the rows that no training sees; the published metrics are measured on them."""
    validation: Share | None = None
    """Share of the rows that choose the best epoch; None: 0.1 for networks trained by gradient, 0 for learners, which do not use them."""
    seed: Seed = 0
    """Which rows they are. It is not the seed of training: all seeds are measured on the same rows."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Split:
        if self.test + (self.validation or 0) >= 1:
            raise ValueError("test + validation below 1, so that rows are left for training")
        return self


class Data(Part):
    dataset: Ref
    """`name`, or `name@version`."""
    target: str | None = None
    """The column to predict; None: the one that the task finds (`label`, `target`)."""
    inputs: tuple[str, ...] | None = None
    """The columns to predict from; None: all that the task can read."""
    split: Split = Split()
    """Used only for what the dataset's own column `split` does not say: all of it without one, or which rows are for validation."""


class ModelPart(BaseModel):
    """`kind` and `from` are ours; every other key is an option of that kind of network, which checks it."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    kind: str | None = None
    """A kind of network that the task can train; None: the task's default."""
    from_: Ref | None = Field(default=None, alias="from")
    """A published model to continue from: its preprocessing, its classes and its weights."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class EarlyStop(Part):
    on: str | None = None
    """`validation.<metric>`, or `validation.loss`; None: the task's metric."""
    patience: Count = 3
    """Evaluations without improvement before training stops."""


class Train(Part):
    """What is None takes the default of the kind of network: `lep train --explain` prints it."""

    epochs: Count | None = None
    """Passes over the training rows, at most."""
    batch: Count | None = None
    """Rows per optimiser step and, with `accumulate`, per micro-batch."""
    optimizer: OptimizerName | None = None
    learning_rate: Positive | None = None
    """The highest value of the schedule."""
    schedule: ScheduleName | None = None
    warmup: Share | None = None
    """Share of the steps in which the learning rate rises."""
    weight_decay: NotNegative | None = None
    """L2, decoupled; never on biases and norms."""
    label_smoothing: Share | None = None
    """Share of each label spread over all classes (Szegedy et al. 2016)."""
    precision: Precision = "fp32"
    accumulate: Count = 1
    """Batches whose gradients are summed for one optimiser step."""
    clip: Positive | None = None
    """Highest norm of the gradient."""
    ema: Share | None = None
    """Decay of the moving average of the weights; if set, the average is what is measured and published."""
    early_stop: EarlyStop | None = None
    """Stop when validation no longer improves. The best evaluation is published with or without it."""
    time_budget: Seconds | None = None
    """Training, evaluation and publishing end within it."""
    seed: Seed = 0
    augment: bool | None = None
    """Whether the task varies training rows (images: small shifts)."""
    checkpoint_every: Seconds = 30.0


class Track(Part):
    tensorboard: bool = True
    """TensorBoard event files in the run folder."""
    wandb: bool = False
    """Also send metrics to Weights & Biases (extra `wandb`)."""


class Publish(Part):
    name: Name | None = None
    """Name in the zoo; None: the dataset's name."""
    tags: tuple[Name, ...] = ()
    """Tags that move to the new version."""


class Recipe(Part):
    recipe: Literal[1] = 1
    """Version of this format."""
    task: str
    data: Data
    model: ModelPart = ModelPart()
    train: Train = Train()
    method: Methods = Methods()
    """What is done round the loop: LoRA, distillation, pruning, …; by name."""
    track: Track = Track()
    publish: Publish | None = Publish()
    """`publish: null` keeps the model in the run folder only."""

    @property
    def model_name(self) -> str:
        """The name in the zoo, and of the run."""
        name = self.publish.name if self.publish else None
        return name or parse_ref(self.data.dataset, "dataset")[0]

    def to_dict(self, defaults: bool = False) -> dict[str, Any]:
        """As YAML data; only what differs from the defaults unless `defaults`."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
        return {"recipe": self.recipe, **data}

    def to_yaml(self, defaults: bool = False) -> str:
        """Text that `load_recipe` reads back to an equal recipe."""
        import yaml

        lines = []
        for key, value in self.to_dict(defaults).items():
            text = yaml.safe_dump(
                {key: value}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000
            )
            lines.append(text if isinstance(value, dict) else f"{key}: {yaml.safe_dump(value).splitlines()[0]}\n")
        return "".join(lines)

    def with_values(self, **parts: dict[str, Any]) -> Recipe:
        """A copy with fields of its parts replaced: `with_values(train={"epochs": 3})`."""
        data = self.to_dict()
        for part, fields in parts.items():
            data[part] = {**(data.get(part) or {}), **fields}
        return read_recipe(Document(data, {}, "recipe"))


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file; `settings` are `part.key=value` and win over the file.

    Raises NotFound, or InvalidInput with the line, the nearest known key and what is expected.
    """
    return read_recipe(read_yaml(Path(path)), settings)


def parse_recipe(text: str, source: str = "recipe", settings: Sequence[str] = ()) -> Recipe:
    return read_recipe(parse_yaml(text, source), settings)


def read_recipe(document: Document, settings: Sequence[str] = ()) -> Recipe:
    if not isinstance(document.data, dict):
        raise InvalidInput(
            f"{document.source} is not a recipe", received=document.data, expected="keys such as task, data and train"
        )
    data, lines = document.data, dict(document.lines)
    for setting in settings:
        data = _set(data, setting, lines)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise first_mistake(error, Document(data, lines, document.source), Recipe) from None


def _set(data: dict[str, Any], setting: str, lines: dict[Any, int]) -> dict[str, Any]:
    """`data` with `a.b=value` set; the value is read as YAML. Its lines go, so errors do not point at the file."""
    name, equals, text = setting.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not equals or not all(path):
        raise InvalidInput("a setting is not part.key=value", received=setting, expected="such as train.epochs=3")
    data = dict(data)
    inner = data
    for part in path[:-1]:
        child = inner.get(part)
        if child is not None and not isinstance(child, dict):
            raise InvalidInput(f"`{name}` cannot be set", received=setting, expected=f"`{part}` to hold keys")
        inner[part] = inner = dict(child or {})
    inner[path[-1]] = parse_yaml(text, f"--set {name}").data
    for known in [line for line in lines if line[: len(path)] == path]:
        del lines[known]
    return data
