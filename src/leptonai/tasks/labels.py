"""The labels of a classification: text, whole numbers, booleans or numbers, in one fixed order, with their JSON type kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.errors import InvalidInput
from .arrays import all_rows, strings

Label = str | int | float | bool
# More classes than this are not written into a JSON Schema, nor all of their scores into a response.
MANY = 100


class Labels:
    """`classes[number]` is the label of a class number; numbers follow the sorted labels."""

    def __init__(self, classes: Sequence[Label]):
        self.classes = list(classes)
        # With the type: True and 1 are one key to Python, and two labels to JSON.
        self._numbers = {(type(label), label): number for number, label in enumerate(self.classes)}

    @classmethod
    def fit(cls, column: Any, rows: np.ndarray, name: str) -> Labels:
        """The labels of the training `rows`; raise InvalidInput if one is missing, seen once, or if there is only one."""
        found = values(column, rows)
        missing = [int(row) for row, label in zip(rows, found, strict=True) if label is None]
        if missing:
            raise missing_target(name, missing, "a label")
        counts = Counter(found)
        if len(counts) < 2:
            raise InvalidInput(
                f"the target {name!r} has only one class in the training rows",
                received=next(iter(counts), "no rows"),
                expected="at least two classes",
                fix="Choose another target, or add rows of another class.",
            )
        if any(count == 1 for count in counts.values()):
            everywhere = Counter(values(column, np.arange(len(column))))
            once = [label for label in counts if everywhere[label] == 1]
            if once:
                raise InvalidInput(
                    f"{len(once)} label{'s' * (len(once) > 1)} of {name!r} occur in one row only, so nothing can be learned and tested",
                    received=", ".join(repr(label) for label in sorted(once, key=str)[:5]),
                    expected="at least 2 rows of each label",
                    fix="Add rows with that label, merge it into another, or drop its row.",
                )
        return cls(sorted(counts))

    def numbers(self, column: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """Class numbers (n,) int64; −1 for a label that was not there in training, or is missing."""
        kind = type(self.classes[0])
        known = {label: number for (_, label), number in self._numbers.items()}
        return np.array([known.get(_as(kind, label), -1) for label in values(column, all_rows(column, rows))], np.int64)

    def number(self, label: Any) -> int | None:
        """The class number of a label as a client writes it, its JSON type included; None if it is not one of ours."""
        if not isinstance(label, (bool, int, float, str)):
            return None
        return self._numbers.get((type(label), label))

    def scores(self, probabilities: np.ndarray) -> list[dict[str, Any]]:
        """One response per row: the likeliest label, its probability, and the probabilities (the ten highest of many)."""
        best = probabilities.argmax(1)
        if len(self.classes) <= 20:
            shown = np.broadcast_to(np.arange(len(self.classes)), probabilities.shape)
        else:
            shown = np.argsort(-probabilities, axis=1, kind="stable")[:, :10]
        names = [key(label) for label in self.classes]
        rounded = np.round(probabilities.astype(np.float64), 6).tolist()
        return [
            {
                "label": self.classes[top],
                "score": row[top],
                "scores": {names[number]: row[number] for number in numbers},
            }
            for row, top, numbers in zip(rounded, best.tolist(), shown.tolist(), strict=True)
        ]

    @property
    def json_type(self) -> str:
        return {str: "string", bool: "boolean", int: "integer", float: "number"}[type(self.classes[0])]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of a label."""
        return {"type": self.json_type} | ({"enum": self.classes} if len(self.classes) <= MANY else {})

    @property
    def response_schema(self) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        names = [key(label) for label in self.classes]
        scores: dict[str, Any] = {
            "type": "object",
            "description": "Probability of each class."
            if len(names) <= 20
            else "Probability of the ten likeliest classes.",
            "additionalProperties": probability,
        }
        first = round(0.9 if len(names) > 1 else 1.0, 6)
        example = {
            "label": self.classes[0],
            "score": first,
            "scores": {names[0]: first, names[-1]: round(1 - first, 6)},
        }
        return {
            "type": "object",
            "properties": {"label": self.schema, "score": probability, "scores": scores},
            "required": ["label", "score", "scores"],
            "additionalProperties": False,
            "example": example,
        }


def key(label: Label) -> str:
    """The label as the key of a JSON object: text as it is, the rest as JSON writes it."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label)


def values(column: Any, rows: np.ndarray) -> list[Label | None]:
    """Labels as Python values. A number column that holds whole numbers only (a CSV with gaps) gives whole numbers."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iub":
        return column[rows].tolist()
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        known = column[np.isfinite(column)]
        whole = bool((known == np.round(known)).all())
        return [None if v != v else int(v) if whole and abs(v) != np.inf else v for v in column[rows].tolist()]
    if isinstance(column, Sequence) and not hasattr(column, "strings"):
        return [column[row] for row in rows]
    return strings(column, rows)


def missing_target(name: str, rows: list[int], what: str) -> InvalidInput:
    first = ", ".join(map(str, rows[:5]))
    return InvalidInput(
        f"the target {name!r} is missing in {len(rows)} training row{'s' * (len(rows) > 1)}, the first: {first}",
        expected=f"{what} in every row",
        fix=f"Fill in or drop the rows without {name!r}, and import the data again.",
    )


def _as(kind: type, label: Any) -> Any:
    """The label in the type of the classes where that loses nothing: the same label may be read as 1, 1.0 or "1"."""
    if label is None or type(label) is kind:
        return label
    if kind is str:
        return key(int(label) if isinstance(label, float) and label.is_integer() else label)
    if kind is bool:
        return {"0": False, "1": True, "false": False, "true": True}.get(str(label).lower().removesuffix(".0"))
    try:
        number = float(label)
    except ValueError:
        return None
    return int(number) if kind is int and number.is_integer() else number
