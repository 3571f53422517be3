"""Facts about requests on their way to the ledger: spooled, fsynced, handed over, each exactly once.

A worker appends a line per request to `usage/<worker>/<segment>.open` before the end of the answer leaves. Each second the segment is
fsynced and becomes `<segment>.jsonl`; only then `collect` offers it. `collect` deletes a segment after the ledger's commit, and the
ledger takes an id only once, so a crash between the two hands facts over again but never counts them again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...base.errors import disk_errors
from ...base.files import fsync_folder
from ...base.structs import prepare

MAX_SEGMENT_BYTES = 8 << 20


class Fact(msgspec.Struct, frozen=True):
    """One request. `id` is unique for ever; `at` is seconds since 1970 at its end; `caller`: key, token or address."""

    id: str
    at: float
    workspace: str
    endpoint: str
    revision: str
    replica: str
    caller: str
    request_id: str
    status: int
    duration_ms: float
    bytes_in: int
    bytes_out: int


prepare(Fact)


class Spool:
    """The facts of one worker. Its folder is locked while the worker lives."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / "lock", "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        close_segments(folder)
        self._encode = msgspec.json.Encoder().encode
        self._file = -1
        self._open()

    def _open(self) -> None:
        self._name = f"{time.time_ns():020d}-{secrets.token_hex(6)}"
        self._lines = self._bytes = 0
        with disk_errors("the usage spool"):
            self._file = os.open(
                self.folder / f"{self._name}.open", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )

    def add(self, *values: object) -> None:
        """`values`: those of Fact after `id`. In the kernel's hands when this returns: a killed worker loses nothing."""
        line = self._encode(Fact(f"{self._name}-{self._lines}", *values)) + b"\n"
        os.write(self._file, line)
        self._lines += 1
        self._bytes += len(line)

    def rotate(self) -> Callable[[], None] | None:
        """Begin a new segment; returns the slow rest (fsync, rename), for a thread. None if there is nothing to hand over."""
        if not self._lines:
            return None
        file, path = self._file, self.folder / f"{self._name}.open"
        self._open()
        return lambda: _seal(file, path)

    def close(self) -> None:
        rest = self.rotate()
        if rest:
            rest()
        os.close(self._file)
        (self.folder / f"{self._name}.open").unlink(missing_ok=True)
        self._lock.close()


def _seal(file: int, path: Path) -> None:
    os.fsync(file)
    os.close(file)
    os.rename(path, path.with_suffix(".jsonl"))
    fsync_folder(path.parent)


def close_segments(folder: Path) -> None:
    """Seal what a dead worker left, without the last line if that was cut. Call with the folder's lock held."""
    for path in sorted(folder.glob("*.open")):
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if not whole:
            path.unlink()
            continue
        file = os.open(path, os.O_WRONLY)
        os.ftruncate(file, whole)
        _seal(file, path)


def collect(root: Path, deliver: Callable[[list[Fact]], None]) -> int:
    """Hand every sealed fact under `root` (`usage/`) to `deliver`, which returns once they are committed; returns how many.

    `deliver` must ignore an id that it has taken before: in one transaction with the write (a unique index).
    """
    total = 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        _adopt(folder)
        for path in sorted(folder.glob("*.jsonl")):
            facts = [msgspec.json.decode(line, type=Fact) for line in path.read_bytes().splitlines() if line]
            deliver(facts)
            path.unlink(missing_ok=True)
            total += len(facts)
    return total


def _adopt(folder: Path) -> None:
    """Seal the open segments of a worker that is dead: nobody holds its lock."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), open(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        close_segments(folder)
