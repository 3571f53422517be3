"""One version of a model as a service sees it: its name, its schemas, its predictions, and whether another may take its place."""

from __future__ import annotations

import math
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..base.errors import Conflict, Corrupt, InvalidInput, LeptonError
from ..base.home import Home
from ..zoo.manifest import NAME as MANIFEST
from .example import example_of

if TYPE_CHECKING:
    from ..tasks.model import Model


@dataclass(frozen=True)
class Served:
    """`ref` names exactly one version (`digits@3`); `described` is what feedback needs later, when this version may be gone."""

    ref: str
    model: Model

    @classmethod
    def load(cls, ref: str, home: Home) -> Served:
        """A model of the store by `name[@version]`, or one in a folder (then `ref` is the folder's name)."""
        from ..tasks.model import Model

        if (Path(ref) / MANIFEST).is_file() or "/" in ref:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(ref).resolve().name).strip("-.") or "model"
            return cls._warm(name, Model.load(ref))
        return cls.load_stored(ref, home)

    @classmethod
    def load_stored(cls, ref: str, home: Home) -> Served:
        """As `load`, from the store only: what a client may ask for."""
        from ..tasks.model import Model
        from ..zoo.store import ModelStore

        entry = ModelStore(home).resolve(ref)
        return cls._warm(entry.ref, Model.load(entry.folder))

    @classmethod
    def _warm(cls, ref: str, model: Model) -> Served:
        served = cls(ref, model)
        served.check()
        return served

    @property
    def task(self) -> Any:
        return self.model.task

    @cached_property
    def described(self) -> dict[str, Any]:
        task = self.task
        return {
            "task": task.name,
            "inputs": [_column(column) for column in task.inputs],
            "target": _column(task.target),
            "classes": plain(task.classes),
        }

    @cached_property
    def described_json(self) -> str:
        return msgspec.json.encode(self.described, order="deterministic").decode()

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One prediction per row. Raises InvalidInput for rows that the task cannot read."""
        try:
            columns = self.task.columns_of(rows)
        except LeptonError:
            raise
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError, RecursionError):
            # The task's checks should have caught it: say so where it is read, and still answer with a sentence.
            traceback.print_exc(file=sys.stderr)
            raise InvalidInput(
                "a row cannot be read", expected="rows as /openapi.json describes them", fix="Compare with its example."
            ) from None
        return self.task.decode(self.model.outputs(columns))

    def check(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Answer one and 32 rows (warm: memory and threads are there) and look at the answers; raise Corrupt if they are not sound.

        `rows`: real ones, from a request; without any, the schema's example.
        """
        rows = list(rows) or [example_of(self.task.request_schema)]
        for size in (1, 32):
            sample = [rows[index % len(rows)] for index in range(size)]
            predictions = self.predict(sample)
            if len(predictions) != size or not all(isinstance(one, dict) and one for one in predictions):
                raise Corrupt(f"model {self.ref} does not answer every row", received=f"{len(predictions)} of {size}")
            if not all(_finite(one) for one in predictions):
                raise Corrupt(f"model {self.ref} predicts values that are no numbers", received=predictions[0])

    def accept_successor(self, other: Served) -> None:
        """Raise Conflict if clients of this version could break on `other`."""
        mine, its = self.described, other.described
        fix = f"Serve it beside this one: lep serve {other.ref}."
        for part in ("task", "target"):
            if mine[part] != its[part]:
                raise Conflict(
                    f"{other.ref} has another signature than {self.ref}, so it cannot take its place",
                    received=f"{part} {_short(its[part])}",
                    expected=f"{part} {_short(mine[part])}",
                    fix=fix,
                )
        # Fewer columns are fine: clients go on sending what is no longer read.
        new = [column for column in its["inputs"] if column not in mine["inputs"]]
        if new:
            raise Conflict(
                f"{other.ref} has another signature than {self.ref}, so it cannot take its place",
                received=f"inputs {_short(new)}",
                expected=f"inputs {_short(mine['inputs'])}",
                fix=fix,
            )
        lost = [label for label in mine["classes"] or [] if label not in (its["classes"] or [])]
        if lost:
            raise Conflict(
                f"{other.ref} no longer knows classes that {self.ref} predicts, so it cannot take its place",
                received=f"no {', '.join(map(str, lost[:5]))}",
                fix=fix,
            )


def _column(column: Any) -> dict[str, Any]:
    return {"name": column.name, "type": column.type, "shape": list(column.shape) if column.shape else None}


def _short(part: Any) -> str:
    if isinstance(part, list):
        return ", ".join(map(_short, part[:5])) + (f" and {len(part) - 5} more" if len(part) > 5 else "")
    return (
        f"{part['name']} ({part['type']}{' ' + str(tuple(part['shape'])) if part['shape'] else ''})"
        if isinstance(part, dict)
        else str(part)
    )


def _finite(prediction: Mapping[str, Any]) -> bool:
    values = [value for value in prediction.values() if isinstance(value, float)]
    scores = prediction.get("scores")
    values += [value for value in scores.values() if isinstance(value, float)] if isinstance(scores, dict) else []
    return all(map(math.isfinite, values))


def plain(value: Any) -> Any:
    """numpy scalars and arrays as what JSON knows."""
    if value is None:
        return None
    return [item.item() if hasattr(item, "item") else item for item in value]
