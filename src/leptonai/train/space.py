"""Search spaces inside a recipe: `{search: [low, high]}` or `{choices: [...]}` in the place of a value.

train: {learning_rate: {search: [1e-4, 1e-2], log: true}, batch: {choices: [32, 64]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import InvalidInput, did_you_mean
from ..base.yaml import Document

if TYPE_CHECKING:
    import optuna

KEYS = ("search", "log", "step", "choices")
Path = tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """Whole numbers if both ends are, else numbers; both ends are included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Choices:
    """Any values of YAML: numbers, words, lists."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        # The number is what is kept: a list is no category to Optuna.
        return self.values[trial.suggest_categorical(name, range(len(self.values)))]

    def shown(self, number: int) -> Any:
        return self.values[number]


Space = Range | Choices


def find_spaces(document: Document) -> dict[Path, Space]:
    """Every space of the recipe by its path. Raises InvalidInput, with the line, for one that cannot be searched."""
    found: dict[Path, Space] = {}

    def walk(value: Any, path: Path) -> None:
        if not isinstance(value, Mapping):
            return
        if "search" in value or "choices" in value:
            found[path] = read_space(value, path, document)
            return
        for key, inner in value.items():
            walk(inner, (*path, str(key)))

    walk(document.data, ())
    return found


def read_space(value: Mapping[str, Any], path: Path, document: Document) -> Space:
    name, line = ".".join(path), document.line(path)

    def wrong(received: Any, expected: str, fix: str | None = None) -> InvalidInput:
        return InvalidInput(
            f"`{name}` in line {line} is not a search space", received=received, expected=expected, fix=fix
        )

    for key in value:
        if key not in KEYS:
            raise wrong(key, "search, log and step, or choices", did_you_mean(str(key), KEYS))
    if "choices" in value:
        choices = value["choices"]
        if len(value) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise wrong(dict(value), "{choices: [a, b, …]} with at least two")
        return Choices(tuple(choices))
    ends = value["search"]
    numbers = isinstance(ends, list) and len(ends) == 2 and all(_is_number(end) for end in ends)
    if not numbers or ends[0] >= ends[1]:
        raise wrong(ends, "[low, high], two numbers")
    log, step = value.get("log", False), value.get("step")
    if not isinstance(log, bool) or (log and (ends[0] <= 0 or step is not None)):
        raise wrong(dict(value), "log: true only above 0, and without step")
    if step is not None and (not _is_number(step) or step <= 0):
        raise wrong(step, "a step above 0")
    return Range(ends[0], ends[1], log, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def filled(document: Document, values: Mapping[Path, Any]) -> Document:
    """The recipe with a value in the place of each space."""
    import copy

    data = copy.deepcopy(document.data)
    for path, value in values.items():
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    return Document(data, document.lines, document.source)
