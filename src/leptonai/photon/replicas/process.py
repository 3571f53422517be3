"""The server's side of a model process: starts it, calls it, and starts it again when it dies. Owns that there is at most one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ...base import errors
from ...base.errors import LeptonError, Unavailable
from ...base.home import Home
from ..runtimes.signature import Signature
from .wire import FROM_PROCESS, Call, Failure, Load, Ready, Result, Shared, pack, receive, send, unpack

LOAD_TIMEOUT_S = 300.0
MAX_PAUSE_S = 5.0
"""Between two starts of a process that dies before it is ready."""


class Died(Exception):
    """The process has ended. `started`: it had the call already, so what it computed may be at fault; or may not."""

    def __init__(self, started: bool):
        super().__init__("the model's process ended")
        self.started = started


class ProcessReplica:
    """One model in one process. `run` is called by one thread at a time; `wait` says when it can be."""

    def __init__(self, ref: str, home: Home, number: int, threads: int, sample: Any = None):
        self.order = Load(
            ref, str(home.root), home.workspace, msgspec.json.encode(sample) if sample is not None else None
        )
        self.number, self.threads = number, threads
        self.ready: Ready | None = None
        self.failure: LeptonError | None = None
        self.restarts = 0
        self.closed = False
        self.change = threading.Condition()
        self.calling = threading.Lock()
        """Held during a call, and taken before the descriptors that a call uses are closed."""
        self.process: subprocess.Popen | None = None
        self.connection: socket.socket | None = None
        self.shared: tuple[Shared, Shared] | None = None
        self.keeper = threading.Thread(target=self._keep, name=f"lepton-replica-{number}", daemon=True)
        self.keeper.start()

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.ready else None

    def wait(self, timeout_s: float) -> bool:
        """Whether it is ready within `timeout_s`. Raises what a model that cannot be loaded raised."""
        with self.change:
            self.change.wait_for(lambda: self.ready or self.failure or self.closed, timeout_s)
            if self.failure is not None:
                raise self.failure
            return self.ready is not None

    def run(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs, as views that live until the next call. Raises Died, or what the model raised."""
        with self.calling:
            connection, shared = self.connection, self.shared
            if connection is None or shared is None:
                raise Died(started=False)
            try:
                send(connection, Call(*pack(columns, shared[0])))
            except OSError:
                raise Died(started=False) from None
            try:
                answer = receive(connection, FROM_PROCESS)
            except (OSError, EOFError):
                raise Died(started=True) from None
        if isinstance(answer, Result):
            return unpack(answer.columns, shared[1], answer.shared_bytes)
        raise _raised(answer)

    def close(self) -> None:
        """End the process; a call in flight raises Died."""
        with self.change:
            self.closed = True
            self.change.notify_all()
            self._hang_up()
        self.keeper.join(10)
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _keep(self) -> None:
        pause_s = 0.1
        while not self.closed:
            started = time.monotonic()
            loaded = self._start()
            if self.process is not None:
                self.process.wait()
            with self.change:
                self.ready = None
                self._hang_up()
                if self.closed or self.failure is not None:
                    return
                self.restarts += 1
                # One that served is started again at once; one that dies at once waits longer each time.
                pause_s = 0.0 if loaded and time.monotonic() - started > 5 else min(2 * pause_s + 0.1, MAX_PAUSE_S)
                self.change.wait_for(lambda: self.closed, pause_s)

    def _start(self) -> bool:
        """Start the process and wait until its model is loaded. False: it ended before."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        shared = Shared.create("lepton-inputs"), Shared.create("lepton-outputs")
        descriptors = [its.fileno(), *(one.descriptor for one in shared)]
        command = [sys.executable, "-m", "leptonai.photon.replicas.worker", *map(str, descriptors)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        environment.pop("LEPTON_TOKEN", None)  # a model needs no secret
        with self.change:
            if self.closed:
                return False
            self.process = subprocess.Popen(command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL)
            self.connection, self.shared = mine, shared
        its.close()
        try:
            mine.settimeout(LOAD_TIMEOUT_S)
            send(mine, self.order)
            answer = receive(mine, FROM_PROCESS)
            mine.settimeout(None)
        except (OSError, EOFError, LeptonError):
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            return False
        with self.change:
            if isinstance(answer, Ready):
                self.ready = answer
            else:
                self.failure = _raised(answer)
            self.change.notify_all()
        return isinstance(answer, Ready)

    def _hang_up(self) -> None:
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # a call in flight ends, and lets go
        with self.calling:
            self.connection = None
            connection.close()
            for one in self.shared or ():
                one.close()
            self.shared = None


def signature_of(ready: Ready) -> Signature | None:
    return None if ready.signature is None else msgspec.convert(ready.signature, Signature, strict=False)


def example_of(ready: Ready) -> dict[str, np.ndarray] | None:
    return None if ready.example is None else unpack(ready.example, Shared(-1), 0)


def _raised(answer: Any) -> LeptonError:
    """The error of a process as one of ours; its text was made there."""
    if not isinstance(answer, Failure):
        return Unavailable("a model process does not keep to the wire's order")
    kind = getattr(errors, answer.code, None)
    known = isinstance(kind, type) and issubclass(kind, LeptonError) and answer.code != "Missing"
    return (
        kind(answer.text)
        if known
        else LeptonError(answer.text, fix=None if answer.code else "The server's log holds the details.")
    )
