"""A service: one model version that answers, its log, its feedback. Owns which version is served; a swap is one assignment."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..base.errors import DiskFull, LeptonError
from ..base.home import Home
from . import feedback, log
from .batching import NORMAL, Batcher, Work
from .execution import Done
from .http import DeadlineExceeded
from .metrics import Metrics
from .recording import MAX_TENSOR_BYTES, TIDY_S, Recording, record_of, store_request
from .served import Placement, Served, process_replicas

PREDICT_TIMEOUT_S = 60.0


_BUSY = b'{"error":"more waits for the model already than is answered in time. Ask again later.","code":"Overloaded"}'
_TURNED_AWAY = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
    b"cache-control: no-store\r\nretry-after: %(seconds)d\r\ncontent-length: "
    + str(len(_BUSY)).encode()
    + b"\r\n\r\n"
    + _BUSY
)


@dataclass(frozen=True)
class Terms:
    """What a client asked of one request. `timeout_s`: from now; None: the server's own limit."""

    timeout_s: float | None = None
    priority: int = NORMAL


@dataclass(frozen=True)
class Batching:
    max_rows: int = 1024
    max_delay_s: float = 0.0
    max_wait_s: float | None = None


@dataclass
class Predicted:
    """An answer, and how long each part of it took."""

    answer: dict[str, Any]
    done: Done
    timings: dict[str, float] = field(default_factory=dict)


class Service:
    """`name` names the log, so a service keeps its requests and feedback over restarts and versions.

    `announce`: called with the version that was swapped in.
    """

    def __init__(
        self,
        name: str,
        served: Served,
        home: Home,
        announce: Callable[[str], None] = lambda ref: None,
        *,
        placement: Placement = Placement(),
        batching: Batching = Batching(),
        recording: Recording = Recording(),
    ):
        self.announce, self.placement, self.recording = announce, placement, recording
        self.name, self.home, self.current = name, home, served
        recording.check(served.described)
        self.metrics = Metrics()
        self.metrics.started.set(time.time())
        self._say_version()
        self.log = log.Log(self.folder / "log.db")
        self.batcher = Batcher(
            lambda: self.current,
            self.metrics,
            max_rows=batching.max_rows,
            max_delay_s=batching.max_delay_s,
            max_wait_s=batching.max_wait_s,
        )
        self.swapping = asyncio.Lock()
        self.latest_rows: Sequence[dict[str, Any]] = ()
        self.since = time.time()
        self.tidying: asyncio.Task | None = None

    @property
    def folder(self) -> Path:
        return self.home.services / self.name

    async def predict(
        self, rows: Sequence[dict[str, Any]], *, single: bool, terms: Terms = Terms(), text: bytes | None = None
    ) -> Predicted:
        """Predict, log, answer, in this order. If the log does not hold the request the answer says `"logged": false`.

        `text`: the JSON that `rows` were read from, so that the log need not write it again.
        """
        started = time.perf_counter()
        done = await self._compute(Work(rows=rows, count=len(rows), priority=terms.priority), terms)
        self.latest_rows = rows[:32]
        predictions = done.predictions or []
        answer: dict[str, Any] = {"request_id": log.new_request_id(), "model": done.served.ref}
        if single:
            answer["prediction"] = predictions[0]
        else:
            answer["predictions"] = predictions
        if not await self._record(answer["request_id"], done, rows, predictions, single, started, text):
            answer["logged"] = False
        return self._timed(answer, done, started)

    async def infer(
        self, tensors: Mapping[str, Any], *, request_id: str | None = None, terms: Terms = Terms()
    ) -> Predicted:
        """Tensors to tensors. Logged as the rows that they are, if they are small, so that feedback can name them."""
        started = time.perf_counter()
        count = len(next(iter(tensors.values()))) if self.current.codec.signature.batched and tensors else 1
        work = Work(tensors=tensors, count=max(1, count), priority=terms.priority)
        done = await self._compute(work, terms)
        outputs = done.tensors or {}
        answer = {"request_id": request_id or log.new_request_id(), "model": done.served.ref, "outputs": outputs}
        small = sum(getattr(tensor, "nbytes", 0) for tensor in tensors.values()) <= MAX_TENSOR_BYTES
        if small and request_id is None and self.recording.sample > 0:
            codec = done.served.codec
            rows = codec.rows_of(done.columns)
            predictions = codec.predictions_of(outputs, len(rows))
            await self._record(answer["request_id"], done, rows, predictions, False, started)
        return self._timed(answer, done, started)

    async def _compute(self, work: Work, terms: Terms) -> Done:
        limit_s = PREDICT_TIMEOUT_S if terms.timeout_s is None else min(terms.timeout_s, PREDICT_TIMEOUT_S)
        if terms.timeout_s is not None:
            work.deadline = work.entered + limit_s
        try:
            async with asyncio.timeout(limit_s):
                done: Done = await self.batcher.submit(work)
        except TimeoutError:
            # What is being computed cannot be stopped, but nobody waits for it any more.
            if terms.timeout_s is not None:
                raise DeadlineExceeded() from None
            raise
        self.metrics.rows.add(work.count, done.served.ref)
        return done

    async def _record(
        self,
        request_id: str,
        done: Done,
        rows: Sequence[Mapping[str, Any]],
        predictions: Sequence[Mapping[str, Any]],
        single: bool,
        started: float,
        text: bytes | None = None,
    ) -> bool:
        if not self.recording.wanted():
            return False
        took_ms = round((time.perf_counter() - started) * 1000, 3)
        if text is None or self.recording.redact:
            text = msgspec.json.encode(self.recording.cleaned(rows))
        record = record_of(request_id, text, len(rows), predictions, single, took_ms)
        try:
            await self.log.submit(lambda connection: store_request(connection, done.served, record))
        except DiskFull:
            self.metrics.log_failures.add()
            return False
        return True

    def _timed(self, answer: dict[str, Any], done: Done, started: float) -> Predicted:
        total = time.perf_counter() - started
        other = max(0.0, total - done.queue_s - done.model_s)
        return Predicted(answer, done, {"queue": done.queue_s, "model": done.model_s, "other": other, "total": total})

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
            old, self.current, self.since = self.current, new, time.time()
            self.metrics.swaps.add(1, "done")
            self._say_version()
            await asyncio.to_thread(self._retire, old, new)
        return {"model": new.ref, "before": old.ref}

    def _prepare(self, ref: str) -> Served:
        new = Served.load_stored(ref, self.home, self.placement)
        try:
            self.current.accept_successor(new)
            new.check(self.latest_rows)
        except BaseException:
            new.close()
            raise
        return new

    def _retire(self, old: Served, new: Served) -> None:
        self.announce(new.ref)
        self.batcher.settle()  # no batch of the old version is being computed any more
        old.close()

    def start_tidying(self) -> None:
        """Keep the log within its bounds while the service runs."""
        if self.recording.bounded:
            self.tidying = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        while True:
            with contextlib.suppress(LeptonError):  # a full disk: it is tried again
                while await self.log.submit(self.recording.tidy):
                    pass
            await asyncio.sleep(TIDY_S)

    def refusal(self, path: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The whole HTTP answer for a prediction that would be refused for what waits already; None to look at it.

        A request that names a priority or a deadline is looked at: it may be let in, or be refused for another reason.
        """
        wait_s = self.batcher.full()
        if wait_s is None or not (path == b"/predict" or path.endswith(b"/infer")):
            return None
        for name, value in headers:
            if name in (b"x-request-priority", b"x-request-timeout-ms", b"expect") or (
                name == b"connection" and value != b"keep-alive"
            ):
                return None
        self.metrics.refused.add()
        self.metrics.requests.add(1, "/predict (turned away)", "429")
        return _TURNED_AWAY % {b"seconds": max(1, round(wait_s))}

    def describe(self) -> dict[str, Any]:
        """What GET /model answers."""
        processes = [
            {"pid": replica.pid, "ready": replica.ready is not None, "restarts": replica.restarts}
            for replica in process_replicas(self.current)
        ]
        return {
            "service": self.name,
            "model": self.current.ref,
            **self.current.described,
            "metrics": {},
            "lineage": {},
            **self.current.facts,
            "since": self.since,
            **({"processes": processes} if processes else {}),
        }

    def measured(self) -> str:
        """The metrics as Prometheus reads them."""
        cost = self.batcher.cost
        self.metrics.estimated_wait.set(self.batcher.wait_s())
        self.metrics.cost.replace({("fixed",): cost.fixed_s, ("row",): cost.row_s})
        self.metrics.restarts.set(sum(replica.restarts for replica in process_replicas(self.current)))
        return self.metrics.render()

    def close(self) -> None:
        """After the last answer: finish the queue, then the log."""
        if self.tidying is not None:
            self.tidying.get_loop().call_soon_threadsafe(self.tidying.cancel)
        self.batcher.close()
        self.current.close()
        self.log.close()

    def _say_version(self) -> None:
        self.metrics.model.replace({(self.current.ref, self.current.codec.name): 1})
