"""One `lep up` of a home, seen from outside: what it says of itself, whether it lives, how it is stopped. A lock proves life, no pid."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from ..base.errors import Conflict, LeptonError
from ..base.files import write_atomic
from ..base.home import Home
from ..base.structs import prepare


class State(msgspec.Struct, frozen=True):
    """`server.json`. `api`: where the gateway finds the plane, `unix:/path` or `host:port`."""

    pid: int
    role: str
    url: str
    api: str
    database: str
    started_at: float
    version: str


prepare(State)


def folder(home: Home) -> Path:
    return home.root / "cloud"


@contextmanager
def only_one(home: Home, role: str) -> Iterator[None]:
    """Hold the lock of this home's plane or gateway; the file says whose it is. Raises Conflict if another process has it."""
    with open(_lock_path(home, role), "a") as file:
        if not _try_lock(file):
            raise Conflict(f"the {role} of this home runs already", fix="See `lep status`, or stop it with `lep down`.")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(home: Home, role: str) -> int | None:
    """The process that holds the lock, also while it is still starting; None if there is none."""
    if not is_running(home, role):
        return None
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((folder(home) / f"{role}.lock").read_text())
    return None


def _lock_path(home: Home, role: str) -> Path:
    folder(home).mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder(home) / f"{role}.lock"


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def is_running(home: Home, role: str = "plane") -> bool:
    path = folder(home) / f"{role}.lock"
    if not path.exists():
        return False
    with open(path, "a") as file:
        return not _try_lock(file)


def write_state(home: Home, state: State) -> None:
    write_atomic(folder(home) / "server.json", msgspec.json.encode(state))


def read_state(home: Home) -> State | None:
    try:
        return msgspec.json.decode((folder(home) / "server.json").read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether the plane answers through the gateway."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s) as answer:  # noqa: S310
            return json.load(answer).get("status") == "ok"
    except (OSError, ValueError):
        return False


def wait_until_ready(home: Home, timeout_s: float, alive=lambda: True) -> State:
    """Block until this home's `lep up` answers. Raises LeptonError if `alive` says no, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and alive():
        state = read_state(home)
        if state and is_running(home) and answers(state.url):
            return state
        time.sleep(0.05)
    raise LeptonError(f"the plane did not answer within {timeout_s:.0f} s", fix=f"Read {folder(home) / 'plane.log'}.")


def gateway_workers(home: Home) -> list[dict]:
    """The workers that live: `{"worker", "pid", "host", "port"}`. Each holds the lock of its usage folder."""
    found = []
    for path in sorted((folder(home) / "gateway").glob("*.json")):
        with contextlib.suppress(FileNotFoundError, ValueError):
            worker = json.loads(path.read_bytes())
            if worker_lives(home, worker["worker"]):
                found.append(worker)
    return found


def worker_lives(home: Home, name: str) -> bool:
    path = folder(home) / "usage" / name / "lock"
    if not path.exists():
        return False
    with open(path, "a") as file:
        return not _try_lock(file)


def stop(home: Home, timeout_s: float = 60.0) -> None:
    """Stop plane and gateway; what is open is finished first. Workloads run on."""
    deadline = time.monotonic() + timeout_s
    roles = ("plane", "gateway")
    for role in roles:
        if pid := holder(home, role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    for role in roles:
        _wait(lambda role=role: not is_running(home, role), deadline, role)
    _stop_workers(home, deadline)
    with contextlib.suppress(FileNotFoundError):
        (folder(home) / "server.json").unlink()


def _stop_workers(home: Home, deadline: float) -> None:
    for worker in gateway_workers(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker["pid"], signal.SIGTERM)
    _wait(lambda: not gateway_workers(home), deadline, "gateway")


def _wait(done, deadline: float, what: str) -> None:
    while not done():
        if time.monotonic() > deadline:
            raise LeptonError(f"the {what} did not stop in time")
        time.sleep(0.02)
