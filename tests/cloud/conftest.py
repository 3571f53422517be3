"""A test leaves no process behind: what still runs in its folders when it is over is killed, and the test fails."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from .databases import Postgres

WAIT_S = 15.0
"""For what was asked to end by the test and is still doing so."""


def processes_of(folder: Path) -> dict[int, str]:
    """Processes with this folder in their command or environment, and what they are."""
    mark, found = os.fsencode(folder) + b"/", {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            # Python's own helper of this process: it ends with it.
            if b"multiprocessing.resource_tracker" in command:
                continue
            if command and (mark in command + b"/" or mark in (entry / "environ").read_bytes()):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill_leftovers(folder: Path, wait_s: float = WAIT_S) -> list[str]:
    """What was still there after `wait_s`, and is killed now."""
    deadline = time.monotonic() + wait_s
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of these tests' own. Skips where there is none."""
    cluster = Postgres()
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path):
    yield
    left = kill_leftovers(tmp_path)
    assert not left, f"left behind by this test, killed now: {left}"


@pytest.fixture(autouse=True, scope="session")
def no_process_is_left_at_the_end(tmp_path_factory):
    yield
    left = kill_leftovers(tmp_path_factory.getbasetemp())
    assert not left, f"left behind by fixtures of these tests, killed now: {left}"
