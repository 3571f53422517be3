"""Facts about requests on their way to the ledger: spooled, fsynced, handed over, each exactly once.

A worker writes a line per request into `usage/<worker>/<segment>.open` before the end of the answer leaves. The segment is mapped into
memory, so that this costs no system call and still is the kernel's the moment it is done: a killed worker loses nothing. Each second a
thread fsyncs the segment and it becomes `<segment>.jsonl`; only then `collect` offers it. So a machine that loses its power loses the
facts of the last second (and of the fsync under way), and nothing else does. `collect` deletes a segment after the ledger's commit, and
the ledger takes an id only once: a crash between the two hands facts over again but never counts them again.

A full disk is noticed one segment ahead: `ready` is False then, and the gateway turns requests away instead of serving them unrecorded.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import DiskFull, disk_errors
from ...base.files import fsync_folder, write_atomic
from ...base.structs import prepare

log = logging.getLogger("lepton.gateway")

SEGMENT_BYTES = 2 << 20
_ZEROS = memoryview(bytes(64 << 10))
LOW_BYTES = 64 << 10
"""Room that is kept for the facts of requests which are open already, when there can be no next segment."""
TRY_S = 0.5
"""Between two tries to make a segment on a disk that was full."""


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


class Segment:
    """A file of `SEGMENT_BYTES` zeros in memory, filled from its start. Making one raises DiskFull."""

    __slots__ = ("end", "lines", "memory", "name", "path")

    def __init__(self, folder: Path):
        self.name = f"{time.time_ns():020d}-{secrets.token_hex(6)}"
        self.path = folder / f"{self.name}.open"
        self.lines = self.end = 0
        with disk_errors("the usage spool"):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Written, not only allocated: a hole could meet a full disk later, and then a store into memory would be a SIGBUS.
                left = SEGMENT_BYTES
                while left:
                    left -= os.write(file, _ZEROS[:left])
                self.memory = mmap.mmap(file, SEGMENT_BYTES)
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
            finally:
                os.close(file)

    def put(self, line: bytes) -> None:
        """`line` has no line end; that is written after it, so that a line which has one is whole, whenever the worker is killed."""
        end = self.end + len(line)
        self.memory[self.end : end] = line
        self.memory[end] = 10
        self.end = end + 1
        self.lines += 1

    def seal(self) -> None:
        """Make it durable and hand it over; an empty one goes."""
        self.memory.close()
        if not self.lines:
            self.path.unlink(missing_ok=True)
            return
        file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(file, self.end)  # first: zeros that nobody reads need not reach the disk
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(self.path, self.path.with_suffix(".jsonl"))
        fsync_folder(self.path.parent)


class Spool:
    """The facts of one worker. Its folder is locked while the worker lives. `add` and `rotate` are for one thread."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / "lock", "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        close_segments(folder)
        self._encode = msgspec.json.Encoder().encode
        self._current = Segment(folder)
        self._spare: Segment | None = None
        self._full: list[Segment] = []
        self._late: list[bytes] = []
        """Facts that found no room: only on a full disk, and no more than there were requests open."""
        self._facts, self._not_before = 0, 0.0

    @property
    def ready(self) -> bool:
        """Whether a request that is admitted now can be recorded."""
        return SEGMENT_BYTES - self._current.end >= LOW_BYTES or self._spare is not None or self._next() is not None

    @property
    def half_full(self) -> bool:
        return self._current.end > SEGMENT_BYTES // 2

    def add(self, *values: Any) -> None:
        """`values`: those of Fact after `id`. In the kernel's hands when this returns: a killed worker loses nothing."""
        self._facts += 1
        line = self._encode(Fact(f"{self._current.name}-{self._facts}", *values))
        if self._current.end + len(line) < SEGMENT_BYTES or self._turn():
            self._current.put(line)
        else:
            self._late.append(line)

    def prepare(self) -> Segment | None:
        """The slow part that comes before `rotate`, for a thread: a segment to go on with, if one is needed."""
        return Segment(self.folder) if self._spare is None else None

    def rotate(self, spare: Segment | None = None) -> Callable[[], None] | None:
        """Go on in the spare segment; returns the slow rest (fsync, rename), for a thread. None if there is nothing to hand over."""
        if self._spare is None:
            self._spare = spare
        elif spare is not None:
            self._full.append(spare)  # one was made meanwhile, in a hurry; this one is empty and goes
        if self._current.lines and not self._turn():
            return None  # a full disk: what there is stays where it is
        done, self._full = self._full, []

        def rest() -> None:
            for segment in done:
                segment.seal()

        return rest if done else None

    def _turn(self) -> bool:
        following = self._next()
        if following is None:
            return False
        self._full.append(self._current)
        self._current, self._spare = following, None
        for line in self._late:
            self._current.put(line)
        self._late.clear()
        return True

    def _next(self) -> Segment | None:
        """The spare one, made here and now if there is none yet and the disk has room."""
        now = time.monotonic()
        if self._spare is None and now >= self._not_before:
            try:
                self._spare = Segment(self.folder)
            except (OSError, DiskFull) as error:
                self._not_before = now + TRY_S
                log.error("requests are turned away: %s", error)
        return self._spare

    def close(self) -> None:
        rest = self.rotate()
        if rest:
            rest()
        for segment in (self._current, self._spare):
            if segment is not None:
                segment.seal()
        self._lock.close()


def close_segments(folder: Path) -> None:
    """Seal what a dead worker left: the lines that are whole. Call with the folder's lock held."""
    for path in sorted(folder.glob("*.open")):
        data = path.read_bytes()
        lines = [line for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True) if _is_fact(line)]
        if lines:
            write_atomic(path.with_suffix(".jsonl"), b"".join(lines))
        path.unlink()


def _is_fact(line: bytes) -> bool:
    """Pages of a file that was not fsynced yet may reach the disk in any order: after a power failure there may be holes."""
    try:
        msgspec.json.decode(line, type=Fact)
    except msgspec.MsgspecError:
        return False
    return True


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
