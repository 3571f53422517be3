"""The engine in a thread of this process, as an `LLMBackend`: for notebooks, `lep chat` and tests. A server has it in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from .backend import Delta, GenRequest, ModelInfo, Stats
from .engine import Engine

Told = Callable[[Delta | Exception], None]


class LocalBackend:
    """Only the thread touches the engine: callers leave commands in a queue. `close()` ends the thread and what is under way."""

    def __init__(self, engine: Engine):
        self.engine, self.info = engine, engine.info
        self.commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.listeners: dict[str, Told] = {}
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self.thread.start()

    info: ModelInfo

    def run(self) -> None:
        while True:
            busy = self.engine.has_unfinished()
            try:
                command = self.commands.get(block=not busy)
            except queue.Empty:
                for request_id, delta in self.engine.step():
                    self.tell(request_id, delta)
                continue
            if command is None:
                break
            command()
        for request_id in list(self.listeners):
            self.engine.abort(request_id)
            self.tell(request_id, Delta(finish_reason="abort", error="the engine was closed"))

    def tell(self, request_id: str, said: Delta | Exception) -> None:
        ended = isinstance(said, Exception) or said.finish_reason
        listener = self.listeners.pop(request_id, None) if ended else self.listeners.get(request_id)
        if listener:
            listener(said)

    def add(self, request: GenRequest, listener: Told) -> None:
        def command() -> None:
            if request.id in self.listeners:
                listener(ValueError(f"a request {request.id} is under way"))
                return
            self.listeners[request.id] = listener
            try:
                self.engine.add_request(request)
            except Exception as error:
                self.tell(request.id, error)

        self.commands.put(command)

    async def submit(self, request: GenRequest) -> AsyncIterator[Delta]:
        """See `LLMBackend`. Leaving the iterator early aborts the request."""
        loop = asyncio.get_running_loop()
        said: asyncio.Queue[Delta | Exception] = asyncio.Queue()

        def listener(delta: Delta | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody listens
                loop.call_soon_threadsafe(said.put_nowait, delta)

        self.add(request, listener)
        over = False
        try:
            while not over:
                delta = await said.get()
                if isinstance(delta, Exception):
                    over = True
                    raise delta
                over = delta.finish_reason is not None
                yield delta
        finally:
            if not over:
                await self.abort(request.id)

    async def abort(self, request_id: str) -> None:
        def command() -> None:
            self.engine.abort(request_id)
            self.tell(request_id, Delta(finish_reason="abort"))

        self.commands.put(command)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` in the engine's thread between two steps: adapters are loaded this way."""
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def command() -> None:
            try:
                result = function(*arguments)
            except Exception as error:
                loop.call_soon_threadsafe(future.set_exception, error)
            else:
                loop.call_soon_threadsafe(future.set_result, result)

        self.commands.put(command)
        return await future

    def stats(self) -> Stats:
        return self.engine.stats()

    def close(self) -> None:
        self.commands.put(None)
        self.thread.join()
