"""Batching by backpressure: a replica that is free takes all that waits, no timer. Owns the queue, its order and its bound.

One row alone is answered at once; under load batches grow by themselves. A batch is computed by one version of the model and
every answer says which. A bad request in a batch gets its own error; its neighbours get their predictions.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import LeptonError, Unavailable
from .admission import Cost
from .execution import Done, execute
from .http import DeadlineExceeded, Overloaded
from .metrics import Metrics
from .served import Served

MAX_BATCH_ROWS = 1024
MAX_BATCH_S = 0.5
"""A batch is no longer than this by the estimate, so that what is urgent does not stand behind it."""
MAX_WAITING_ROWS = 100_000
MAX_WAIT_S = 2.0
"""A request that would wait longer than this, by the estimate, is refused with 429."""
HIGH, NORMAL, LOW = 0, 1, 2


@dataclass(eq=False)
class Work:
    """One request: `rows` of JSON, or `tensors` that a client sent. `deadline`: by `time.monotonic`; None: none."""

    rows: Sequence[dict[str, Any]] | None = None
    tensors: Mapping[str, Any] | None = None
    count: int = 1
    priority: int = NORMAL
    deadline: float | None = None
    future: asyncio.Future | None = None
    entered: float = field(default_factory=time.monotonic)
    tries: int = 0


class Batcher:
    """One thread per replica. `current()` is asked once per batch, so a swap takes effect between two batches and never inside one."""

    def __init__(
        self,
        current: Callable[[], Served],
        metrics: Metrics,
        *,
        max_rows: int = MAX_BATCH_ROWS,
        max_delay_s: float = 0.0,
        max_wait_s: float | None = None,
    ):
        self.current, self.metrics, self.cost = current, metrics, Cost()
        self.max_rows, self.max_delay_s = max_rows, max_delay_s
        self.max_wait_s = MAX_WAIT_S if max_wait_s is None else max_wait_s
        self.waiting: tuple[deque[Work], ...] = (deque(), deque(), deque())
        self.waiting_rows = [0, 0, 0]
        self.closed = False
        self.wake = threading.Condition()
        count = len(current().replicas)
        self.busy_until = [0.0] * count
        self.batches = [0] * count
        """Of each replica: twice its batches, and odd while it computes one."""
        self.threads = [
            threading.Thread(target=self._work, args=(number,), name=f"lepton-model-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def submit(self, work: Work) -> asyncio.Future:
        """A future for the `Done` of this request. Raises Overloaded if it would wait too long."""
        work.future = asyncio.get_running_loop().create_future()
        with self.wake:
            if self.closed:
                raise Unavailable("the server is stopping", fix="Ask again.")
            self._admit(work)
            self.waiting[work.priority].append(work)
            self._count(work.priority, work.count)
            self.wake.notify()
        return work.future

    def wait_s(self, priority: int = NORMAL) -> float:
        """Estimated time until a new request of this priority starts."""
        rows = sum(self.waiting_rows[: priority + 1])
        now = time.monotonic()
        busy = sum(max(0.0, until - now) for until in self.busy_until)
        return (busy + (self.cost.batch_s(rows) if rows else 0.0)) / len(self.busy_until)

    def full(self) -> float | None:
        """Seconds after which it is worth asking again, if a request of normal priority would be refused now; else None."""
        wait_s = self.wait_s()
        return wait_s if wait_s > self.max_wait_s and sum(self.waiting_rows) else None

    def settle(self) -> None:
        """Return when no batch that began before this call is being computed."""
        with self.wake:
            numbers = list(self.batches)
        for number, begun in enumerate(numbers):
            if begun % 2:
                with self.wake:
                    self.wake.wait_for(lambda number=number, begun=begun: self.batches[number] != begun)

    def close(self) -> None:
        """Finish what waits, take nothing more."""
        with self.wake:
            self.closed = True
            self.wake.notify_all()
        for thread in self.threads:
            thread.join()

    def _admit(self, work: Work) -> None:
        waiting = sum(self.waiting_rows[: work.priority + 1])
        if not waiting:
            return
        wait_s = self.wait_s(work.priority)
        late = work.deadline is not None and time.monotonic() + wait_s + self.cost.batch_s(work.count) > work.deadline
        if wait_s > self.max_wait_s or late or waiting + work.count > MAX_WAITING_ROWS:
            self.metrics.refused.add()
            why = "would be answered after their deadline" if late else "would wait too long"
            raise Overloaded(f"{waiting} rows wait for the model already, so these {why}", wait_s)

    def _count(self, priority: int, rows: int) -> None:
        self.waiting_rows[priority] += rows
        self.metrics.waiting.set(sum(self.waiting_rows))

    def _work(self, number: int) -> None:
        while (batch := self._next(number)) is not None:
            if not batch:
                continue
            self._turn(number)
            served, rows = self.current(), sum(work.count for work in batch)
            started = time.monotonic()
            self.busy_until[number] = started + self.cost.batch_s(rows)
            results = execute(served, served.replicas[number % len(served.replicas)], batch)
            seconds = time.monotonic() - started
            self.busy_until[number] = 0.0
            retried = [work for work, result in zip(batch, results, strict=True) if result is None]
            if not retried:
                self.cost.observe(rows, seconds)
            self.metrics.batch.observe(rows)
            self.metrics.model_seconds.observe(seconds)
            self._turn(number)
            self._put_back(retried)
            _hand_back(batch, results, started, seconds, self.metrics)

    def _turn(self, number: int) -> None:
        with self.wake:
            self.batches[number] += 1
            self.wake.notify_all()

    def _next(self, number: int) -> list[Work] | None:
        """The next batch of this replica, once the replica is there; None when closed and done; [] to look again."""
        served = self.current()
        wait = getattr(served.replicas[number % len(served.replicas)], "wait", None)
        if wait is not None:
            try:
                if not wait(0.2):
                    return None if self._over() else []
            except LeptonError as error:  # the model can no longer be loaded
                return self._fail_all(error)
        return self._take()

    def _over(self) -> bool:
        """Closed, and nothing that a replica on its way could still answer."""
        with self.wake:
            return self.closed and not any(self.waiting)

    def _take(self) -> list[Work] | None:
        """A share of all that waits, up to `max_rows` (a larger request goes alone); None when closed and done."""
        with self.wake:
            while not any(self.waiting):
                if self.closed:
                    return None
                self.wake.wait()
            self._linger()
            limit = min(self.max_rows, self.cost.rows_within(MAX_BATCH_S))
            idle = sum(until == 0.0 for until in self.busy_until)
            if idle > 1:  # others are free too: they take their share
                limit = min(limit, -(-sum(self.waiting_rows) // idle))
            batch: list[Work] = []
            rows = 0
            while work := self._first():
                if batch and (rows + work.count > limit or work.tries):
                    break
                self.waiting[work.priority].popleft()
                self._count(work.priority, -work.count)
                if self._wanted(work):
                    batch.append(work)
                    rows += work.count
                    if work.tries:  # it was there when a process died: it is computed alone
                        break
            if any(self.waiting):
                self.wake.notify()
            return batch

    def _linger(self) -> None:
        """Wait a bounded time for more rows, where the service was told to."""
        if not self.max_delay_s:
            return
        first = min((queue[0].entered for queue in self.waiting if queue), default=0.0)
        while not self.closed and sum(self.waiting_rows) < self.max_rows:
            left = first + self.max_delay_s - time.monotonic()
            if left <= 0 or not self.wake.wait(left):
                return

    def _first(self) -> Work | None:
        return next((queue[0] for queue in self.waiting if queue), None)

    def _wanted(self, work: Work) -> bool:
        """Whether somebody still waits for it and it can still be in time."""
        future = work.future
        if future is None or future.done():  # the client has gone, or its time has run out
            return False
        if work.deadline is not None and time.monotonic() > work.deadline:
            _settle(future, DeadlineExceeded())
            return False
        return True

    def _put_back(self, works: list[Work]) -> None:
        """Their process died: they go to the front of the queue, for the next replica that is free."""
        with self.wake:
            for work in reversed(works):
                self.waiting[work.priority].appendleft(work)
                self._count(work.priority, work.count)
            if works:
                self.wake.notify_all()

    def _fail_all(self, error: LeptonError) -> list[Work] | None:
        with self.wake:
            for priority, queue in enumerate(self.waiting):
                while queue:
                    work = queue.popleft()
                    self._count(priority, -work.count)
                    if work.future is not None:
                        _settle(work.future, error)
            if self.closed:
                return None
            self.wake.wait(0.2)
        return []


def _hand_back(
    batch: list[Work], results: Sequence[Done | LeptonError | None], started: float, seconds: float, metrics: Metrics
) -> None:
    loop = batch[0].future.get_loop() if batch[0].future else None

    def settle() -> None:
        for work, result in zip(batch, results, strict=True):
            if result is None or work.future is None or work.future.done():
                continue
            if isinstance(result, LeptonError):
                work.future.set_exception(result)
            else:
                result.queue_s, result.model_s = started - work.entered, seconds
                metrics.queue_seconds.observe(result.queue_s)
                work.future.set_result(result)

    if loop is not None and not loop.is_closed():
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:  # closed in between: nobody waits any more
            traceback.print_exc(file=sys.stderr)


def _settle(future: asyncio.Future, error: LeptonError) -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else future.set_exception(error))
