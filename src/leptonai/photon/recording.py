"""What of a request is kept for feedback: a sample, without the columns that nobody may keep, for a bounded time. `log.py` keeps it."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..base.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    from .served import Served

TIDY_S = 60.0
"""How often old requests are looked for."""
TIDY_ROWS = 2_000
"""Requests that one transaction of tidying removes, so that no answer waits for it."""
MAX_TENSOR_BYTES = 64 << 10
"""Requests in tensors are logged as rows up to this size: written as JSON a tensor is several times as long."""


@dataclass(frozen=True)
class Recording:
    """`sample`: share of the requests that is kept. `redact`: columns kept as null. `keep_s`, `keep_requests`: None: for ever."""

    sample: float = 1.0
    redact: tuple[str, ...] = ()
    keep_s: float | None = None
    keep_requests: int | None = None

    def check(self, described: Mapping[str, Any]) -> None:
        """Raise InvalidInput for settings that cannot be meant: a redaction that misses its column must not pass silently."""
        if not 0 <= self.sample <= 1:
            raise InvalidInput("the sample of requests to log is a share", received=self.sample, expected="0 to 1")
        names = [column["name"] for column in described["inputs"]]
        for name in self.redact:
            if name not in names:
                raise InvalidInput("the model has no column to redact", received=name, fix=did_you_mean(name, names))

    def wanted(self) -> bool:
        return self.sample >= 1 or random.random() < self.sample

    def cleaned(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        if not self.redact:
            return rows
        hidden = dict.fromkeys(self.redact)
        return [{**row, **{name: None for name in hidden if name in row}} for row in rows]

    @property
    def bounded(self) -> bool:
        return self.keep_s is not None or self.keep_requests is not None

    def tidy(self, connection: sqlite3.Connection) -> int:
        """Remove requests, with their feedback, that are older or more than is kept; returns how many (at most TIDY_ROWS)."""
        old: list[tuple[str]] = []
        if self.keep_s is not None:
            query = "SELECT id FROM requests WHERE time < ? ORDER BY rowid LIMIT ?"
            old = connection.execute(query, (time.time() - self.keep_s, TIDY_ROWS)).fetchall()
        if self.keep_requests is not None and not old:
            count = connection.execute("SELECT count(*) FROM requests").fetchone()[0]
            over = min(max(0, count - self.keep_requests), TIDY_ROWS)
            old = connection.execute("SELECT id FROM requests ORDER BY rowid LIMIT ?", (over,)).fetchall()
        connection.executemany("DELETE FROM feedback WHERE request_id = ?", old)
        connection.executemany("DELETE FROM requests WHERE id = ?", old)
        return len(old)


def record_of(
    request_id: str,
    rows: bytes,
    count: int,
    predictions: Sequence[Mapping[str, Any]],
    single: bool,
    latency_ms: float,
) -> tuple:
    """What `store_request` writes. `rows`: a JSON list."""
    return (
        request_id,
        time.time(),
        int(single),
        rows,
        msgspec.json.encode(predictions),
        count,
        latency_ms,
    )


def store_request(connection: sqlite3.Connection, served: Served, record: tuple) -> None:
    key = (served.ref, served.described_json)
    found = connection.execute("SELECT id FROM models WHERE ref = ? AND described = ?", key).fetchone()
    model = (
        found[0] if found else connection.execute("INSERT INTO models (ref, described) VALUES (?, ?)", key).lastrowid
    )
    request_id, when, *rest = record
    connection.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (request_id, when, model, *rest))
