"""The log of a workload as its shim writes it: segments named by the position of their first byte, the oldest dropped.

A record is `<time_ns> <o|e><F|P> <text>\\n`: stdout or stderr, a full line or a part whose end is still to come. Positions count
bytes from the first record ever written, so a reader can go on at a position after any number of rotations. Stdlib only: the
shim imports this and has to start quickly.
"""

import contextlib
import errno
import os
import time

SEGMENT_BYTES, KEEP_SEGMENTS = 8 << 20, 8
MAX_LINE_BYTES = 16 << 10
IDLE_S = 0.3
"""A part of a line (a prompt, a progress bar) is shown after this long without its end."""


class LogWriter:
    """Collects two byte streams into records. Never raises for a full disk: what cannot be written is counted, then said."""

    def __init__(self, folder: str, segment_bytes: int = SEGMENT_BYTES, keep: int = KEEP_SEGMENTS):
        os.makedirs(folder, 0o700, exist_ok=True)
        self._folder, self._segment_bytes, self._keep = folder, segment_bytes, keep
        self._rest = {b"o": b"", b"e": b""}
        self._rest_since = {b"o": 0.0, b"e": 0.0}
        self._last_ns = 0
        self._lost_bytes = 0
        self._start = self._end = 0
        self._file = -1
        self._open_segment()

    def write(self, stream: bytes, data: bytes) -> None:
        """`stream`: b"o" or b"e". Whole lines are written now; the rest waits for its end or for `flush_idle`."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        records = [record for line in lines for record in self._line(stream, line)]
        while len(rest) > MAX_LINE_BYTES:
            end = whole_utf8(rest[:MAX_LINE_BYTES])
            records.append(self._record(stream, b"P", rest[:end]))
            rest = rest[end:]
        self._rest[stream], self._rest_since[stream] = rest, time.monotonic()
        self._append(records)

    def flush_idle(self, now: bool = False) -> None:
        """Write parts of lines that have waited for their end for IDLE_S (`now`: all of them)."""
        for stream, rest in self._rest.items():
            if rest and (now or time.monotonic() - self._rest_since[stream] >= IDLE_S):
                end = len(rest) if now else whole_utf8(rest)
                if end:
                    self._append([self._record(stream, b"P", rest[:end])])
                    self._rest[stream] = rest[end:]

    @property
    def waiting(self) -> bool:
        return any(self._rest.values())

    def close(self) -> None:
        self.flush_idle(now=True)
        self._append([])
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def _line(self, stream: bytes, line: bytes) -> list[bytes]:
        records = []
        while len(line) > MAX_LINE_BYTES:
            end = whole_utf8(line[:MAX_LINE_BYTES])
            records.append(self._record(stream, b"P", line[:end]))
            line = line[end:]
        return [*records, self._record(stream, b"F", line)]

    def _record(self, stream: bytes, kind: bytes, text: bytes) -> bytes:
        # Strictly rising, whatever the clock does: a time names a record, and searches by time can be bisected.
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return b"%d %s%s %s\n" % (self._last_ns, stream, kind, text)

    def _append(self, records: list[bytes]) -> None:
        if self._lost_bytes:
            said = self._record(b"e", b"F", b"[%d bytes of output were lost: the disk was full]" % self._lost_bytes)
            if not self._write(said):
                self._lost_bytes += sum(map(len, records))
                return
            self._lost_bytes = 0
        batch: list[bytes] = []
        size = 0
        for record in records:
            if size + self._end - self._start >= self._segment_bytes:
                self._write(b"".join(batch))
                batch, size = [], 0
                self._open_segment()
            batch.append(record)
            size += len(record)
        self._write(b"".join(batch))

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            self._lost_bytes += len(data)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end - self._start)  # no half record
                os.lseek(self._file, 0, os.SEEK_END)
            return False
        self._end += len(data)
        return True

    def _open_segment(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            file = os.open(os.path.join(self._folder, f"{self._end:020d}.log"), flags, 0o600)
        except OSError:
            if self._file < 0:
                raise
            return  # a full disk: go on in the segment that there is
        if self._file >= 0:
            os.close(self._file)
        self._file, self._start = file, self._end
        for name in sorted(name for name in os.listdir(self._folder) if name.endswith(".log"))[: -self._keep]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))


def whole_utf8(data: bytes) -> int:
    """How many bytes of `data` end with a whole character. Bytes that are no UTF-8 count as whole."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return len(data)
        if byte >= 0xC0:
            needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < needs else len(data)
    return len(data)
