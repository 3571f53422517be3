"""Starts gateway workers and keeps them running. They live in sessions of their own: the data plane survives a killed plane, and
the next plane finds them by their locks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..base.home import Home
from .instance import folder, gateway_workers, worker_lives

CHECK_S = 0.2
MAX_WAIT_S = 10.0
WAIT_S = 4.0


class Workers:
    """`count` workers on one port. `start` begins those that do not live; a thread begins again those that die."""

    def __init__(
        self, home: Home, count: int, host: str, port: int, certificate: Path | None = None, key: Path | None = None
    ):
        self.home, self.names = home, [f"w{number}" for number in range(count)]
        self._command = ["--folder", str(folder(home)), "--host", host, "--port", str(port)]
        if certificate and key:
            self._command += ["--certificate", str(certificate), "--key", str(key)]
        self._children: dict[str, subprocess.Popen] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gateway-workers", daemon=True)
        self._host, self._port = host, port

    def start(self) -> None:
        for worker in gateway_workers(self.home):
            # Of an earlier `lep up` with another address or more workers.
            if (worker["host"], worker["port"]) != (self._host, self._port) or worker["worker"] not in self.names:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGTERM)
        for name in self.names:
            self._ensure(name)
        self._thread.start()

    def _ensure(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and child.poll() is None:
            return
        if worker_lives(self.home, name):
            return
        failures, not_before = self._failures.get(name, (0, 0.0))
        now = time.monotonic()
        if now < not_before:
            return
        self._failures[name] = failures + 1, now + min(MAX_WAIT_S, 0.2 * 2**failures)
        with open(folder(self.home) / "gateway.log", "ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "leptonai.cloud.gateway.worker", "--name", name, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_S):
            for name in self.names:
                self._ensure(name)
                failures, not_before = self._failures.get(name, (0, 0.0))
                if failures and time.monotonic() > not_before + MAX_WAIT_S:
                    self._failures.pop(name)  # it has lived long enough to begin anew

    def stop(self) -> None:
        """Begin no more; those that run finish what is open and end. Waits a little: a long stream may outlive this process."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + WAIT_S
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End them at once: what they have open is cut. Their usage facts are in files already."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Also to one that has begun and does not yet say so in its file."""
        pids = {worker["pid"] for worker in gateway_workers(self.home) if worker["worker"] in self.names}
        for pid in pids | {child.pid for child in self._children.values() if child.poll() is None}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
