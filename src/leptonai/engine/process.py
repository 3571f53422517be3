"""An `LLMBackend` whose engine is another process. Owns that process: starts it, starts it again when it dies, ends it.

What was in flight when the engine died ends with `EngineDied`; nothing else is lost, and requests that come meanwhile wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from ..base import errors
from ..base.errors import LeptonError, Unavailable
from . import wire
from .backend import Delta, GenRequest, ModelInfo, Stats

RESTART_DELAYS_S = (0.0, 0.5, 2.0, 5.0, 15.0)
STABLE_S = 60.0
"""An engine that lived so long starts with no delay again."""
START_WAIT_S = 30.0
"""A request that finds the engine starting waits so long before it is told to come again."""


class EngineDied(Unavailable):
    """The engine ended while the request was in it."""

    status = 503


class Stream:
    """Deltas of one request, in order. One reader."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[Delta | LeptonError] = deque()
        self._waiter: asyncio.Future | None = None

    def put(self, item: Delta | LeptonError) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Delta:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, LeptonError):
            raise item
        return item


class EngineProcess:
    """`await start()` first; `await stop()` at the end. `state`: "starting", "ready", "failed", "stopped"."""

    def __init__(self, options: wire.EngineOptions):
        self.options = options
        self.state = "starting"
        self.failure: str | None = None
        self.restarts = 0
        self.adapters = dict(options.adapters)
        self._info: ModelInfo | None = None
        self._stats = Stats()
        self._streams: dict[str, Stream] = {}
        self._calls: dict[int, asyncio.Future] = {}
        self._call_ids = itertools.count()
        self._outbox: list = []
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task | None = None

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise Unavailable("the engine has not started")
        return self._info

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Return when the engine answers. Raises Unavailable if it cannot start."""
        self._keeper = asyncio.create_task(self._keep())
        while self.state == "starting":
            await self._wait_for_change()
        if self.state == "failed":
            await self.stop()
            raise Unavailable(f"the engine did not start: {self.failure}")

    async def stop(self) -> None:
        self.state = "stopped"
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end_process()
        self._fail_all(EngineDied("the server is stopping", fix="Ask again."))

    async def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def _set_state(self, state: str) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()

    async def _keep(self) -> None:
        """One life of the engine after the other."""
        failures = 0
        while True:
            born = time.monotonic()
            try:
                reader = await self._spawn()
                await self._read(reader)
            except (ConnectionError, ValueError, OSError) as error:
                self.failure = str(error)
            code = await self._reap()
            if self.state == "stopped":
                return
            if self.state == "failed":
                self._fail_all(Unavailable(f"the engine cannot start: {self.failure}"))
                return
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            never_ready = self._info is None
            self.failure = f"the engine process ended ({how})"
            self._fail_all(
                EngineDied(
                    f"{self.failure} while it worked on this request",
                    fix="It is starting again: send the request again.",
                )
            )
            if never_ready:
                return self._set_state("failed")
            self.restarts += 1
            failures = 1 if time.monotonic() - born > STABLE_S else failures + 1
            self._set_state("starting")
            await asyncio.sleep(RESTART_DELAYS_S[min(failures - 1, len(RESTART_DELAYS_S) - 1)])

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "leptonai.engine.worker", str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, env=dict(os.environ),
            )  # fmt: skip
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        options = msgspec.structs.replace(self.options, adapters=self.adapters)
        self._writer.write(wire.frame(options))
        return reader

    async def _reap(self) -> int:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is None:
            return 1
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = wire.Frames()
        while data := await reader.read(1 << 20):
            for body in frames.feed(data):
                self._receive(wire.from_engine.decode(body))

    def _receive(self, message: wire.FromEngine) -> None:
        match message:
            case wire.Step():
                for id, delta in message.deltas:
                    if (stream := self._streams.get(id)) is not None:
                        stream.put(delta)
                for id, refusal in message.refused:
                    if (stream := self._streams.get(id)) is not None:
                        stream.put(_error(refusal))
                for call, refusal in message.answers:
                    if (future := self._calls.pop(call, None)) is not None and not future.done():
                        future.set_result(None) if refusal is None else future.set_exception(_error(refusal))
                if message.stats is not None:
                    self._stats = message.stats
            case wire.Ready(info):
                self._info = info
                self._stats = Stats()
                self._set_state("ready")
                self._flush()
            case wire.Failed(reason):
                self.failure = reason
                self._set_state("failed")

    def _fail_all(self, error: LeptonError) -> None:
        self._outbox.clear()
        self._stats = Stats()
        for stream in self._streams.values():
            stream.put(error)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(error)
        self._calls.clear()

    def _send(self, message) -> None:
        """Everything said within one turn of the event loop leaves as one frame."""
        self._outbox.append(message)
        if len(self._outbox) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._outbox and self._writer is not None and self.state == "ready":
            self._writer.write(wire.frame(self._outbox))
            self._outbox.clear()

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(START_WAIT_S):
                while self.state == "starting":
                    await self._wait_for_change()
        except TimeoutError:
            raise Unavailable("the engine is still starting", fix="Ask again in a moment.") from None
        if self.state != "ready":
            raise Unavailable(f"the engine does not run: {self.failure or self.state}")

    async def submit(self, request: GenRequest) -> AsyncIterator[Delta]:
        await self._until_ready()
        stream = self._streams[request.id] = Stream()
        ended = False
        self._send(wire.Add(request))
        try:
            while True:
                try:
                    delta = await stream.get()
                except LeptonError:
                    ended = True
                    raise
                ended = delta.finish_reason is not None
                yield delta
                if ended:
                    return
        finally:
            self._streams.pop(request.id, None)
            if not ended:  # the reader went away: free what the request holds
                self._send(wire.Abort(request.id))

    async def abort(self, request_id: str) -> None:
        if self.state == "ready":
            self._send(wire.Abort(request_id))

    def stats(self) -> Stats:
        return self._stats

    async def _call(self, name: str, path: str | None) -> None:
        await self._until_ready()
        call = next(self._call_ids)
        future = self._calls[call] = asyncio.get_running_loop().create_future()
        self._send(wire.LoadAdapter(call, name, path))
        await future

    async def load_adapter(self, name: str, path: str) -> None:
        await self._call(name, path)
        self.adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        await self._call(name, None)
        self.adapters.pop(name, None)


def _error(refusal: wire.Refusal) -> LeptonError:
    """The error as the engine raised it, with its sentence whole."""
    kind = getattr(errors, refusal.kind, LeptonError)
    error = (kind if kind is not errors.Missing else Unavailable)(refusal.message.removesuffix("."))
    return error
