"""Requests of a batched handler, collected until there are `max_batch_size` or the first has waited `max_wait_time`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Collector:
    """`call(lists)`: runs the handler on a list per argument, under the photon's slots; gives a list of as many results."""

    def __init__(self, call: Callable[[dict[str, list]], Awaitable[Any]], max_size: int, max_wait_s: float):
        self.call, self.max_size, self.max_wait_s = call, max_size, max_wait_s
        self.waiting: list[tuple[dict[str, Any], asyncio.Future]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.running: set[asyncio.Task] = set()

    async def submit(self, arguments: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        self.waiting.append((arguments, result))
        if len(self.waiting) >= self.max_size:
            self._flush()
        elif self.timer is None:
            self.timer = loop.call_later(self.max_wait_s, self._flush)
        return await result

    def _flush(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        batch = [
            (arguments, result) for arguments, result in self.waiting if not result.done()
        ]  # not: whose client has gone
        self.waiting = []
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def _run(self, batch: list[tuple[dict[str, Any], asyncio.Future]]) -> None:
        try:
            results = await self.call({name: [arguments[name] for arguments, _ in batch] for name in batch[0][0]})
            if not isinstance(results, list | tuple) or len(results) != len(batch):
                found = f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__
                raise ValueError(
                    f"a batched handler returns a list with one result per request: received {found}, expected {len(batch)}"
                )
        except BaseException as error:
            for _, result in batch:
                if not result.done():
                    result.set_exception(
                        error if isinstance(error, Exception) else RuntimeError("the batch was stopped")
                    )
            if not isinstance(error, Exception):
                raise
            return
        for (_, result), value in zip(batch, results, strict=True):
            if not result.done():
                result.set_result(value)
