"""Batching by backpressure: when the worker thread is free it takes all that waits, no timer. Owns the queue and its bound.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import LeptonError, Unavailable
from .http import Overloaded
from .metrics import Metrics
from .served import Served

MAX_BATCH_ROWS = 1024
MAX_WAITING_ROWS = 100_000
MAX_WAIT_S = 10.0
"""A request that would wait longer than this (rows that wait × measured time per row) is refused with 429."""


@dataclass(frozen=True)
class Prediction:
    served: Served
    predictions: list[dict[str, Any]]


@dataclass
class _Waiting:
    rows: Sequence[dict[str, Any]]
    future: asyncio.Future


class Batcher:
    """`current()` is asked once per batch, so a swap takes effect between two batches and never inside one."""

    def __init__(self, current: Callable[[], Served], metrics: Metrics):
        self.current, self.metrics = current, metrics
        self.waiting: deque[_Waiting] = deque()
        self.waiting_rows = 0
        self.seconds_per_row = 0.0
        self.closed = False
        self.wake = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="lepton-model", daemon=True)
        self.thread.start()

    def submit(self, rows: Sequence[dict[str, Any]]) -> asyncio.Future:
        """A future for the `Prediction` of these rows. Raises Overloaded if they would wait too long."""
        future = asyncio.get_running_loop().create_future()
        with self.wake:
            if self.closed:
                raise Unavailable("the server is stopping", fix="Ask again.")
            wait_s = self.waiting_rows * self.seconds_per_row
            if self.waiting and (wait_s > MAX_WAIT_S or self.waiting_rows + len(rows) > MAX_WAITING_ROWS):
                self.metrics.refused.add()
                raise Overloaded(f"{self.waiting_rows} rows wait for the model already", wait_s)
            self.waiting.append(_Waiting(rows, future))
            self._count(len(rows))
            self.wake.notify()
        return future

    def close(self) -> None:
        """Finish what waits, take nothing more."""
        with self.wake:
            self.closed = True
            self.wake.notify()
        self.thread.join()

    def _count(self, rows: int) -> None:
        self.waiting_rows += rows
        self.metrics.waiting.set(self.waiting_rows)

    def _work(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            results = answer(self.current(), [item.rows for item in batch])
            rows = sum(len(item.rows) for item in batch)
            per_row = (time.perf_counter() - started) / max(rows, 1)
            # Falls at once, rises slowly: one stall (a page fault, a first call) must not turn clients away.
            self.seconds_per_row = min(per_row, 0.8 * self.seconds_per_row + 0.2 * per_row)
            self.metrics.batch.observe(rows)
            _hand_back(batch, results)

    def _take(self) -> list[_Waiting]:
        """All that waits, up to MAX_BATCH_ROWS (a larger request goes alone); empty when closed and done."""
        batch: list[_Waiting] = []
        rows = 0
        with self.wake:
            while not batch:
                while not self.waiting:
                    if self.closed:
                        return []
                    self.wake.wait()
                while self.waiting and (not batch or rows + len(self.waiting[0].rows) <= MAX_BATCH_ROWS):
                    item = self.waiting.popleft()
                    self._count(-len(item.rows))
                    if not item.future.cancelled():  # its time may have run out while it waited
                        batch.append(item)
                        rows += len(item.rows)
        return batch


def answer(served: Served, requests: Sequence[Sequence[dict[str, Any]]]) -> list[Prediction | LeptonError]:
    """Predictions for each request, computed together; where that fails, one by one, so that only the guilty one fails."""
    try:
        predictions = served.predict([row for rows in requests for row in rows])
    except Exception as error:
        if len(requests) > 1:
            return [result for rows in requests for result in answer(served, [rows])]
        if isinstance(error, LeptonError):
            return [error]
        traceback.print_exc(file=sys.stderr)
        return [LeptonError("the model failed on this request", fix="The server's log holds the details.")]
    results: list[Prediction | LeptonError] = []
    start = 0
    for rows in requests:
        results.append(Prediction(served, predictions[start : start + len(rows)]))
        start += len(rows)
    return results


def _hand_back(batch: list[_Waiting], results: list[Prediction | LeptonError]) -> None:
    loop = batch[0].future.get_loop()

    def settle() -> None:
        for item, result in zip(batch, results, strict=True):
            if item.future.done():
                continue
            if isinstance(result, LeptonError):
                item.future.set_exception(result)
            else:
                item.future.set_result(result)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
