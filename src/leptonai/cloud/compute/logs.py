"""Reads what `segments.py` writes, while it is being written: from a position or a time on, through rotations, following."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from .driver import LogLine

FOLLOW_S = 0.1
READ_BYTES = 1 << 20
_STREAMS = {b"o": "stdout", b"e": "stderr"}


class LogReader:
    """A place in the log of one workload. `read` never waits; `offset` is where the next read begins."""

    def __init__(self, folder: Path, offset: int = 0, *, since_ns: int | None = None, until_ns: int | None = None):
        self.folder, self.offset, self.since_ns, self.until_ns = folder, offset, since_ns, until_ns
        self.done = False
        """Past `until_ns`: nothing more will come."""
        if since_ns is not None:
            self.offset = max(offset, self._segment_of(since_ns))

    def read(self) -> list[LogLine]:
        """What there is from here on, at most about READ_BYTES; empty at the present end."""
        while not self.done:
            data = self._bytes()
            if not data:
                return []
            lines = [line for line in self._lines(data) if self.since_ns is None or line.time_ns >= self.since_ns]
            if lines:
                return lines
        return []

    def _lines(self, data: bytes) -> Iterator[LogLine]:
        position = self.offset
        for record in data.split(b"\n")[:-1]:
            position += len(record) + 1
            when, kind, text = record.split(b" ", 2)
            if self.until_ns is not None and int(when) >= self.until_ns:
                self.done = True
                return
            self.offset = position
            stream = _STREAMS[kind[:1]]
            yield LogLine(int(when), stream, text.decode(errors="replace"), kind[1:] == b"P", position)  # type: ignore[arg-type]

    def _bytes(self) -> bytes:
        """Whole records at `offset`; if its segment is gone, at the oldest there is."""
        for start, path in self._segments():
            try:
                size = path.stat().st_size
                if start + size <= self.offset:
                    continue
                self.offset = max(self.offset, start)
                with open(path, "rb") as file:
                    file.seek(self.offset - start)
                    data = file.read(READ_BYTES)
            except FileNotFoundError:  # rotated away between listing and opening
                continue
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                return whole
        return b""

    def _segments(self) -> list[tuple[int, Path]]:
        try:
            return sorted((int(path.stem), path) for path in self.folder.iterdir() if path.suffix == ".log")
        except FileNotFoundError:
            return []

    def _segment_of(self, time_ns: int) -> int:
        """The start of the last segment whose first record is not later than `time_ns`."""
        best = 0
        for start, path in self._segments():
            try:
                with open(path, "rb") as file:
                    first = file.read(20).split(b" ", 1)[0]
            except FileNotFoundError:
                continue
            if first.isdigit() and int(first) > time_ns:
                break
            best = start
        return best


def read_all(reader: LogReader) -> Iterator[LogLine]:
    while lines := reader.read():
        yield from lines


def follow(reader: LogReader, ended: Callable[[], bool]) -> Iterator[LogLine]:
    """Lines as they come, until `ended()` and everything is read."""
    while not reader.done:
        over = ended()  # asked before the last read, so that nothing written before the end is missed
        yield from read_all(reader)
        if over:
            return
        time.sleep(FOLLOW_S)


async def follow_async(reader: LogReader, ended: Callable[[], bool]) -> AsyncIterator[list[LogLine]]:
    """As `follow`, in batches, for an event loop: a follower costs no thread."""
    while not reader.done:
        over = ended()
        while lines := reader.read():
            yield lines
        if over:
            return
        await asyncio.sleep(FOLLOW_S)
