"""What really happened for a served prediction: checked, stored beside the request, and listed. `collecting.py` makes data of it.

Feedback is history: a later label for the same row wins, the earlier stays in the log.
"""

from __future__ import annotations

import math
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from ..base.errors import InvalidInput, NotFound, did_you_mean

FIELDS = ("request_id", "row", "label", "correct", "rating", "comment")
MAX_COMMENT = 4000


@dataclass(frozen=True)
class Entry:
    """One POST /feedback. `values`: kind → value, for `label`, `correct`, `rating`, `comment`."""

    request_id: str
    row: int
    values: dict[str, Any]


def parse(given: Any) -> Entry:
    """Check what does not need the log; raise InvalidInput."""
    if not isinstance(given, dict):
        raise InvalidInput("feedback is not an object", received=given, expected='{"request_id": …, "label": …}')
    for key in given:
        if key not in FIELDS:
            raise InvalidInput(f"feedback has no field {key!r}", fix=did_you_mean(key, FIELDS))
    request_id, row = given.get("request_id"), given.get("row", 0)
    if not isinstance(request_id, str) or not request_id:
        raise InvalidInput(
            "feedback needs the `request_id` of a prediction", received=request_id, expected="its 32 characters"
        )
    if not _is_int(row) or row < 0:
        raise InvalidInput("`row` is which row of the request is meant", received=row, expected="0 or more")
    values = {kind: given[kind] for kind in FIELDS[2:] if given.get(kind) is not None}
    if not values:
        raise InvalidInput(
            "feedback says nothing",
            expected="a label, correct, rating or comment",
            fix='Send {"request_id": …, "label": …}.',
        )
    if "label" in values and "correct" in values:
        raise InvalidInput("`label` and `correct` say the same thing", fix="Send the label alone.")
    if not isinstance(values.get("correct", True), bool):
        raise InvalidInput("`correct` is yes or no", received=values["correct"], expected="true or false")
    if "rating" in values and not (_is_int(values["rating"]) and 1 <= values["rating"] <= 5):
        raise InvalidInput("`rating` is out of range", received=values["rating"], expected="a whole number from 1 to 5")
    comment = values.get("comment", "-")
    if not isinstance(comment, str) or not 0 < len(comment) <= MAX_COMMENT:
        raise InvalidInput(
            "`comment` cannot be kept", received=comment, expected=f"a text of 1 to {MAX_COMMENT} characters"
        )
    return Entry(request_id, row, values)


def store(connection: sqlite3.Connection, entry: Entry, classes: list[Any] | None) -> dict[str, Any]:
    """Inside the log's transaction: join to the request, check against its task, insert. `classes`: of the model served now,
    which may know a class that the one that answered did not."""
    found = connection.execute(
        "SELECT requests.count, models.described FROM requests JOIN models ON models.id = requests.model WHERE requests.id = ?",
        (entry.request_id,),
    ).fetchone()
    if found is None:
        raise NotFound(
            "there is no logged request with this id",
            received=entry.request_id,
            fix="Send the `request_id` of an answer of this service.",
        )
    count, described = found
    if entry.row >= count:
        raise InvalidInput("the request has no such row", received=f"row {entry.row}", expected=f"0 to {count - 1}")
    task = msgspec.json.decode(described)
    values = dict(entry.values)
    if "label" in values:
        values["label"] = check_label(values["label"], task["target"], task["classes"], classes)
    if "correct" in values and task["classes"] is None:
        raise InvalidInput(
            "a value is rarely exactly right, so `correct` means nothing here",
            fix='Send what it really was: {"label": 12.5}.',
        )
    now = time.time()
    for kind, value in values.items():
        connection.execute(
            "INSERT INTO feedback (request_id, row, kind, value, time) VALUES (?, ?, ?, ?, ?)",
            (entry.request_id, entry.row, kind, msgspec.json.encode(value).decode(), now),
        )
    return {"request_id": entry.request_id, "row": entry.row, "kinds": list(values)}


def check_label(label: Any, target: dict[str, Any], classes: list[Any] | None, more: list[Any] | None = None) -> Any:
    """The label in the target's own type (`"3"` → 3 where classes are numbers); raise InvalidInput that names the nearest class."""
    if classes is None:
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise InvalidInput(f"this is no value for {target['name']!r}", received=label, expected="a number")
        return label
    known = [*classes, *(one for one in more or [] if one not in classes)]
    same = [one for one in known if one == label and isinstance(one, bool) == isinstance(label, bool)]
    # Shell and forms know only text.
    same = same or ([one for one in known if as_text(one) == label.strip()] if isinstance(label, str) else [])
    if not same:
        names = [as_text(one) for one in known]
        shown = names if len(names) <= 20 else []
        raise InvalidInput(
            f"this is no label of {target['name']!r}",
            received=label,
            expected=f"one of {', '.join(shown)}" if shown else f"one of {len(names)} classes",
            fix=did_you_mean(as_text(label), names) if not shown or isinstance(label, str) else None,
        )
    return same[0]


def as_text(label: Any) -> str:
    """A label as JSON and forms write it: booleans in lower case."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def from_shell(text: str, classes: list[Any] | None) -> Any:
    """A label as typed in a shell: text where there are classes (the server finds the class), a number where there are none."""
    if classes is not None:
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidInput("this service predicts numbers", received=text, expected="a number") from None
