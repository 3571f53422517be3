"""Services as processes: start one as a child or detached, find those that run, stop one. State is the folder of the service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ..base.errors import LeptonError, NotFound, Unavailable
from ..base.home import Home
from ..base.paths import check_name
from .server import State, try_lock

START_TIMEOUT_S = 120.0
"""Loading torch and a model on a loaded machine takes tens of seconds."""


@dataclass
class ServiceProcess:
    """A running `lep serve`. As a context manager it is stopped at the end."""

    name: str
    url: str
    pid: int
    home: Home
    child: subprocess.Popen | None = field(default=None, repr=False)

    def stop(self, timeout_s: float = 40.0) -> None:
        """SIGTERM, then wait until what was in flight is answered and the log is closed."""
        if self.child is not None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        else:
            stop_service(self.name, self.home, timeout_s=timeout_s)

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_service(
    ref: str,
    name: str,
    *,
    port: int = 0,
    home: Home | None = None,
    token: str | None = None,
    detach: bool = False,
    timeout_s: float = START_TIMEOUT_S,
) -> ServiceProcess:
    """`lep serve ref` as a process that answers when this returns. `port` 0: a free one. `detach`: it outlives this process
    and its terminal. Raises Unavailable with the server's own last words if it ends, or is not ready in time."""
    home = home or Home.current()
    folder = home.services / check_name(name, "service")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LEPTON_HOME": str(home.root), "LEPTON_WORKSPACE": home.workspace}
    environment.pop("LEPTON_TOKEN", None)
    if token:
        environment["LEPTON_TOKEN"] = token  # not an argument: those can be read by every user of the machine
    command = [sys.executable, "-m", "leptonai.cli.main", "serve", ref, "--name", name, "--port", str(port)]
    with open(folder / "server.log", "ab") as output:
        offset = output.tell()
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=detach
        )
    try:
        state = _wait_until_ready(folder, child, time.monotonic() + timeout_s)
    except BaseException as error:
        child.kill()
        child.wait()
        if isinstance(error, TimeoutError):
            words = (folder / "server.log").read_bytes()[offset:].decode(errors="replace").strip()
            reason = words.splitlines()[-1].removeprefix("Error: ") if words else f"no answer within {timeout_s:.0f} s"
            raise Unavailable(f"the service {name!r} did not start: {reason}") from None
        raise
    return ServiceProcess(name, state.url, state.pid, home, None if detach else child)


def _wait_until_ready(folder: Path, child: subprocess.Popen, deadline: float) -> State:
    while child.poll() is None and time.monotonic() < deadline:
        state = read_state(folder)
        if state and state.pid == child.pid and answers(state.url):
            return state
        time.sleep(0.02)
    raise TimeoutError


def read_state(folder: Path) -> State | None:
    try:
        return msgspec.json.decode((folder / "service.json").read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310
            return json.load(answer).get("status") == "ok"
    except (OSError, ValueError):
        return False


def is_running(folder: Path) -> bool:
    """Whether a process holds the service's lock. A pid alone proves nothing: after a crash it may be somebody else's."""
    try:
        with open(folder / "lock", "a") as file:
            return not try_lock(file)
    except FileNotFoundError:
        return False


def running_services(home: Home | None = None) -> list[State]:
    home = home or Home.current()
    folders = sorted(home.services.iterdir()) if home.services.is_dir() else []
    states = [read_state(folder) for folder in folders if folder.is_dir() and is_running(folder)]
    return [state for state in states if state]


def stop_service(name: str, home: Home | None = None, *, timeout_s: float = 40.0) -> State:
    """Stop a service of this home, whoever started it; returns what it was. Raises NotFound if it does not run."""
    home = home or Home.current()
    folder = home.services / check_name(name, "service")
    state = read_state(folder)
    if state is None or not folder.is_dir() or not is_running(folder):
        running = ", ".join(one.name for one in running_services(home)) or "none"
        raise NotFound(f"no service named {name!r} runs here", fix=f"Running services: {running}.")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while is_running(folder):
        if time.monotonic() > deadline:
            raise LeptonError(f"service {name!r} (process {state.pid}) did not stop within {timeout_s:.0f} s")
        time.sleep(0.02)
    return state
