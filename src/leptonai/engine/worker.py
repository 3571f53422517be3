"""The engine's process: reads frames, steps the engine, writes one frame a step. It ends when the server's end of the socket closes.

python -m leptonai.engine.worker FD      (started by process.py; FD is one end of an AF_UNIX socket pair)
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..base.errors import LeptonError
from . import wire

if TYPE_CHECKING:
    from .backend import GenRequest
    from .engine import Engine

STATS_EVERY = 8
"""Steps between two counts sent; the last step before rest always sends them."""


class Worker:
    def __init__(self, sock: socket.socket, engine: Engine, compile_grammar):
        self.sock, self.engine, self.compile_grammar = sock, engine, compile_grammar
        self.frames = wire.Frames()
        self.compiling: dict[str, tuple[GenRequest, Future]] = {}
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="grammar")
        self.open = True
        self.selector = selectors.DefaultSelector()
        self.selector.register(sock, selectors.EVENT_READ)
        # A compiled grammar wakes the loop through its own pipe: the loop then rests without a timer.
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        self.selector.register(self.wake_read, selectors.EVENT_READ)

    def run(self) -> None:
        steps = 0
        while self.open:
            out = wire.Step()
            busy = self.engine.has_unfinished()
            for key, _ in self.selector.select(0 if busy else None):
                if key.fileobj is self.sock:
                    self.read(out)
                else:
                    os.read(self.wake_read, 4096)
            self.admit_compiled(out)
            if self.engine.has_unfinished():
                out.deltas = self.engine.step()
                steps += 1
            if steps % STATS_EVERY == 0 or not self.engine.has_unfinished():
                out.stats = self.engine.stats()
            if self.open and (out.deltas or out.refused or out.answers or out.stats):
                self.sock.sendall(wire.frame(out))

    def read(self, out: wire.Step) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            self.open = False
            return
        for body in self.frames.feed(data):
            for message in wire.to_engine.decode(body):
                self.handle(message, out)

    def handle(self, message: wire.Add | wire.Abort | wire.LoadAdapter, out: wire.Step) -> None:
        match message:
            case wire.Add(request) if request.params.grammar is not None and self.compile_grammar is not None:
                future = self.pool.submit(self.compile_grammar, request.params.grammar)
                self.compiling[request.id] = request, future
                future.add_done_callback(lambda _: os.write(self.wake_write, b"."))
            case wire.Add(request):
                self.admit(request, out)
            case wire.Abort(id):
                if self.compiling.pop(id, None) is None:
                    self.engine.abort(id)
            case wire.LoadAdapter(call, name, path):
                out.answers.append((call, self.attempt(self.adapter, name, path)))

    def adapter(self, name: str, path: str | None) -> None:
        if path is None:
            self.engine.unload_adapter(name)
        else:
            self.engine.load_adapter(name, Path(path))

    def admit(self, request: GenRequest, out: wire.Step) -> None:
        if (refusal := self.attempt(self.engine.add_request, request)) is not None:
            out.refused.append((request.id, refusal))

    def admit_compiled(self, out: wire.Step) -> None:
        """Requests whose grammar is ready go in; what cannot be compiled is refused."""
        for id in [id for id, (_, future) in self.compiling.items() if future.done()]:
            request, future = self.compiling.pop(id)
            if (refusal := self.attempt(future.result)) is not None:
                out.refused.append((id, refusal))
            else:
                self.admit(request, out)

    @staticmethod
    def attempt(call, *arguments) -> wire.Refusal | None:
        try:
            call(*arguments)
        except LeptonError as error:
            return wire.Refusal(type(error).__name__, str(error))
        except Exception as error:  # one request's trouble is never the engine's
            return wire.Refusal("LeptonError", f"{type(error).__name__}: {error}")
        return None


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle; it closes the socket
    frames, options = wire.Frames(), None
    while options is None:
        data = sock.recv(1 << 20)
        if not data:
            return
        for body in frames.feed(data):
            options = msgspec.msgpack.decode(body, type=wire.EngineOptions)
    try:
        from .open import open_engine

        engine, grammar = open_engine(options)
    except Exception as error:  # whatever it is, the server says it in one sentence
        reason = str(error) if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # the server may know already, and be gone
            sock.sendall(wire.frame(wire.Failed(reason)))
        return
    sock.sendall(wire.frame(wire.Ready(engine.info)))
    worker = Worker(sock, engine, grammar.compile)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server is gone; so are we
        worker.run()


if __name__ == "__main__":
    main()
