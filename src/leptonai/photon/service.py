"""A service: one model version that answers, its log, its feedback. Owns which version is served; a swap is one assignment."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..base.errors import DiskFull
from ..base.home import Home
from . import feedback, log
from .batching import Batcher, Prediction
from .metrics import Metrics
from .served import Served

PREDICT_TIMEOUT_S = 60.0


class Service:
    """`name` names the log, so a service keeps its requests and feedback over restarts and versions.

    `announce`: called with the version that was swapped in.
    """

    def __init__(self, name: str, served: Served, home: Home, announce: Callable[[str], None] = lambda ref: None):
        self.announce = announce
        self.name, self.home, self.current = name, home, served
        self.metrics = Metrics()
        self.metrics.started.set(time.time())
        self._say_version()
        self.log = log.Log(self.folder / "log.db")
        self.batcher = Batcher(lambda: self.current, self.metrics)
        self.swapping = asyncio.Lock()
        self.latest_rows: Sequence[dict[str, Any]] = ()
        self.since = time.time()

    @property
    def folder(self) -> Path:
        return self.home.services / self.name

    async def predict(self, rows: Sequence[dict[str, Any]], *, single: bool) -> dict[str, Any]:
        """Predict, log, answer, in this order. If the log cannot be written the answer says `"logged": false`."""
        started = time.perf_counter()
        async with asyncio.timeout(PREDICT_TIMEOUT_S):
            done: Prediction = await self.batcher.submit(rows)
        ref = done.served.ref
        self.metrics.rows.add(len(rows), ref)
        self.latest_rows = rows[:32]
        answer: dict[str, Any] = {"request_id": log.new_request_id(), "model": ref}
        if single:
            answer["prediction"] = done.predictions[0]
        else:
            answer["predictions"] = done.predictions
        record = (
            answer["request_id"],
            time.time(),
            int(single),
            msgspec.json.encode(rows),
            msgspec.json.encode(done.predictions),
            len(rows),
            round((time.perf_counter() - started) * 1000, 3),
        )
        try:
            await self.log.submit(lambda connection: _store_request(connection, done.served, record))
        except DiskFull:
            self.metrics.log_failures.add()
            answer["logged"] = False
        return answer

    async def give_feedback(self, given: Any) -> dict[str, Any]:
        """Store what really happened; done only after fsync. Raises NotFound, InvalidInput, or DiskFull (507)."""
        entry = feedback.parse(given)
        classes = self.current.described["classes"]
        try:
            stored = await self.log.submit(lambda connection: feedback.store(connection, entry, classes), durable=True)
        except DiskFull:
            self.metrics.log_failures.add()
            raise
        for kind in stored["kinds"]:
            self.metrics.feedback.add(1, kind)
        return stored

    async def swap(self, ref: str) -> dict[str, Any]:
        """Load `ref` beside the served version, check it on real rows, switch. On any error the old version stays."""
        async with self.swapping:
            try:
                new = await asyncio.to_thread(self._prepare, ref)
            except BaseException:
                self.metrics.swaps.add(1, "refused")
                raise
            before, self.current, self.since = self.current.ref, new, time.time()
            self.metrics.swaps.add(1, "done")
            self._say_version()
            await asyncio.to_thread(self.announce, new.ref)
        return {"model": new.ref, "before": before}

    def _prepare(self, ref: str) -> Served:
        new = Served.load_stored(ref, self.home)
        self.current.accept_successor(new)
        new.check(self.latest_rows)
        return new

    def describe(self) -> dict[str, Any]:
        """What GET /model answers."""
        manifest = self.current.model.manifest
        return {
            "service": self.name,
            "model": self.current.ref,
            **self.current.described,
            "metrics": manifest.metrics,
            "lineage": msgspec.to_builtins(manifest.lineage),
            "since": self.since,
        }

    def close(self) -> None:
        """After the last answer: finish the queue, then the log."""
        self.batcher.close()
        self.log.close()

    def _say_version(self) -> None:
        self.metrics.model.replace({(self.current.ref, self.current.task.name): 1})


def _store_request(connection: sqlite3.Connection, served: Served, record: tuple) -> None:
    key = (served.ref, served.described_json)
    found = connection.execute("SELECT id FROM models WHERE ref = ? AND described = ?", key).fetchone()
    model = (
        found[0] if found else connection.execute("INSERT INTO models (ref, described) VALUES (?, ?)", key).lastrowid
    )
    request_id, when, *rest = record
    connection.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (request_id, when, model, *rest))
