"""Feedback becomes data: the rows of requests as they were given, with what really happened as their target.

A row is used once per dataset. What was used is derived from the lineage of the dataset's versions, which is written with the
version itself, so a process killed at any moment neither loses a row nor uses it twice.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..base.errors import InvalidInput, NotFound, did_you_mean
from ..base.home import Home
from ..base.paths import check_name
from .log import open_database
from .values import Unusable, arrow_values

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.dataset import Dataset

_TRUTH = """
SELECT f.id, f.request_id, f.row, f.kind, f.value, f.time, r.rows, r.predictions, m.ref, m.described
FROM feedback f JOIN requests r ON r.id = f.request_id JOIN models m ON m.id = r.model
WHERE f.kind IN ('label', 'correct') AND f.id = (
  SELECT max(g.id) FROM feedback g WHERE g.request_id = f.request_id AND g.row = f.row AND g.kind IN ('label', 'correct'))
ORDER BY r.rowid, f.row
"""


@dataclass(frozen=True)
class Truth:
    """A served row and what it really was; `label` is None if only its being wrong is known."""

    feedback_id: int
    request_id: str
    row: int
    given: dict[str, Any]
    prediction: dict[str, Any]
    label: Any
    model: str
    described: dict[str, Any]
    time: float

    @property
    def right(self) -> bool:
        return self.label is not None and self.prediction.get("label", self.prediction.get("value")) == self.label


@dataclass(frozen=True)
class Gathered:
    """What `gather` did. `changed`: rows whose label was replaced after they had been used (a version never changes, so the
    dataset keeps the earlier one); `unusable`: why rows could not be taken."""

    dataset: Dataset
    rows: int
    models: dict[str, int]
    changed: int
    unusable: list[str]


def collect(service: str, home: Home | None = None) -> pa.Table:
    """All rows of a service whose truth is known, as columns of the model that is newest in the log: its inputs and its target."""
    home = home or Home.current()
    with _reading(service, home) as connection:
        truths = [truth for truth in _truths(connection) if truth.label is not None]
        described = truths[-1].described if truths else _newest_description(connection, service)
    schema = _schema_of(described)
    return _table(truths, schema, described["target"]["name"])[0]


def to_dataset(service: str, dataset: str, home: Home | None = None) -> Dataset:
    """Append what is new in a service's feedback to a dataset; returns the new version, or the newest if nothing is new."""
    return gather(service, dataset, home).dataset


def gather(service: str, dataset: str, home: Home | None = None) -> Gathered:
    """As `to_dataset`, telling what was done. Safe to repeat, to kill, and to run twice at once."""
    from ..data.dataset import open_dataset

    home = home or Home.current()
    with _reading(service, home) as connection, _alone(service, home):
        target_dataset = open_dataset(dataset, home)
        log_id = connection.execute("SELECT value FROM about WHERE key = 'id'").fetchone()[0]
        used = _used(target_dataset, log_id)
        used_rows, truths = _split_by_use(connection, used)
        fresh = [truth for truth in truths if (truth.request_id, truth.row) not in used_rows]
        changed = sum((truth.request_id, truth.row) in used_rows and truth.feedback_id not in used for truth in truths)
        schema = target_dataset.head(1).schema
        _check_columns(fresh, schema, target_dataset.ref)
        target = fresh[0].described["target"]["name"] if fresh else ""
        table, taken, unusable = _table(fresh, schema, target)
        models = dict(Counter(truth.model for truth in taken))
        if taken:
            ids = sorted(truth.feedback_id for truth in taken)
            told = {"service": service, "log": log_id, "rows": len(taken), "models": models, "feedback": _ranges(ids)}
            target_dataset = target_dataset.append(table, lineage={"feedback": told})
    return Gathered(target_dataset, len(taken), models, changed, unusable)


def summary(service: str, home: Home | None = None) -> dict[str, Any]:
    """What `lep feedback ls` shows: counts by kind, how often the model was right, by version, and the newest rows."""
    home = home or Home.current()
    with _reading(service, home) as connection:
        kinds = dict(connection.execute("SELECT kind, count(*) FROM feedback GROUP BY kind ORDER BY kind"))
        requests, rows = connection.execute("SELECT count(*), coalesce(sum(count), 0) FROM requests").fetchone()
        truths = list(_truths(connection))
    models: dict[str, dict[str, Any]] = {}
    for truth in truths:
        model = models.setdefault(truth.model, {"known": 0, "right": 0})
        model["known"] += 1
        model["right"] += truth.right
    newest = sorted(truths, key=lambda truth: truth.feedback_id)[-20:]
    return {
        "service": service,
        "requests": requests,
        "rows": rows,
        "feedback": kinds,
        "models": models,
        "newest": [
            {
                "request_id": truth.request_id,
                "row": truth.row,
                "model": truth.model,
                "predicted": truth.prediction.get("label", truth.prediction.get("value")),
                "really": truth.label,
                "time": truth.time,
            }
            for truth in newest
        ],
    }


@contextmanager
def _reading(service: str, home: Home) -> Iterator[sqlite3.Connection]:
    """One consistent view of the log, while the service may go on writing."""
    path = home.services / check_name(service, "service") / "log.db"
    if not path.is_file():
        known = sorted(folder.parent.name for folder in home.services.glob("*/log.db"))
        raise NotFound(f"there is no service {service!r} with a log here", fix=did_you_mean(service, known))
    with closing(open_database(path, create=False)) as connection:
        connection.execute("BEGIN")
        yield connection


@contextmanager
def _alone(service: str, home: Home) -> Iterator[None]:
    """Two collections at once would both find the same rows unused."""
    with open(home.services / service / "collect.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _truths(connection: sqlite3.Connection) -> Iterator[Truth]:
    decoded: tuple[str, list, list] = ("", [], [])
    for feedback_id, request_id, row, kind, value, time, rows, predictions, ref, described in connection.execute(
        _TRUTH
    ):
        if decoded[0] != request_id:
            decoded = (request_id, msgspec.json.decode(rows), msgspec.json.decode(predictions))
        prediction = decoded[2][row]
        said = msgspec.json.decode(value)
        label = said if kind == "label" else prediction.get("label") if said else None
        given = decoded[1][row]
        yield Truth(feedback_id, request_id, row, given, prediction, label, ref, msgspec.json.decode(described), time)


def _split_by_use(connection: sqlite3.Connection, used: set[int]) -> tuple[set[tuple[str, int]], list[Truth]]:
    """Rows of which any label was used before, and all rows whose truth is known."""
    labels = connection.execute("SELECT id, request_id, row FROM feedback WHERE kind IN ('label', 'correct')")
    rows = {(request_id, row) for feedback_id, request_id, row in labels if feedback_id in used}
    return rows, [truth for truth in _truths(connection) if truth.label is not None]


def _used(dataset: Dataset, log_id: str) -> set[int]:
    """Feedback of this log that the version holds: told by it or by one that it was made from. The log's id counts, not its name."""
    from ..data.dataset import open_dataset

    used: set[int] = set()
    version: Dataset | None = dataset
    while version is not None:
        told = version.lineage.get("feedback")
        if isinstance(told, dict) and told.get("log") == log_id:
            used |= _numbers(told["feedback"])
        parent = version.lineage.get("parent")
        try:
            version = open_dataset(parent, dataset.home) if parent else None
        except NotFound:  # that version was removed
            version = None
    return used


def _check_columns(truths: list[Truth], schema: pa.Schema, ref: str) -> None:
    for described in {msgspec.json.encode(truth.described): truth.described for truth in truths}.values():
        for column in (*described["inputs"], described["target"]):
            if column["name"] not in schema.names:
                raise InvalidInput(
                    f"dataset {ref} has no column {column['name']!r}, which this service's model knows",
                    received=", ".join(schema.names[:10]),
                    fix="Name the dataset that the model was trained on.",
                )


def _table(truths: list[Truth], schema: pa.Schema, target: str) -> tuple[pa.Table, list[Truth], list[str]]:
    """Rows in the types of `schema`, and those that could be taken. Columns that no request has are null; the split is `train`."""
    import pyarrow as pa

    from ..data.schema import SPLIT

    taken, rows, unusable = [], [], []
    for truth in truths:
        row = {**truth.given, target: truth.label, SPLIT: "train"}
        try:
            rows.append([arrow_values(field, row.get(field.name)) for field in schema])
            taken.append(truth)
        except Unusable as error:
            unusable.append(f"request {truth.request_id}, row {truth.row}: {error}")
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(values, field.type) for field, values in zip(schema, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema), taken, unusable


def _schema_of(described: dict[str, Any]) -> pa.Schema:
    import pyarrow as pa

    from ..data.fields import field_of
    from ..data.schema import Column
    from .values import storage_of

    columns = [
        Column(one["name"], one["type"], tuple(one["shape"]) if one["shape"] else None)
        for one in (*described["inputs"], described["target"])
    ]
    return pa.schema([field_of(column, storage_of(column)) for column in columns])


def _newest_description(connection: sqlite3.Connection, service: str) -> dict[str, Any]:
    found = connection.execute("SELECT described FROM models ORDER BY id DESC LIMIT 1").fetchone()
    if found is None:
        raise NotFound(f"service {service!r} has not answered a request yet", fix="Ask it for predictions first.")
    return msgspec.json.decode(found[0])


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as text: [1, 2, 3, 7] → "1-3,7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in parts)


def _numbers(ranges: str) -> set[int]:
    found: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
