"""Where a chunked body ends, found while its bytes pass through untouched. Owns the framing state of one message."""

from __future__ import annotations

from .heads import BadMessage

_HEX = frozenset(b"0123456789abcdefABCDEF")
MAX_SIZES = 4096
_SIZES: dict[bytes, int] = {}
"""Sizes as they were written, once checked: most chunks are of few sizes, and looking one up is much cheaper than reading it."""
MAX_LINE = 4096
MAX_TRAILER_BYTES = 8192
MANY_CHUNKS, LITTLE_BYTES = 10_000, 4
"""A request of so many chunks with fewer bytes each on average is an attack: it costs much more to read than to send."""


class Chunked:
    """`feed(data)` returns how many of its bytes belong to the body; `done` says that the body has ended.

    `strict` is for requests: no extensions and no trailers, because proxies and servers disagree about both.
    """

    __slots__ = ("_chunks", "_left", "_line", "_state", "_trailer", "done", "payload", "strict")
    SIZE, DATA, END_OF_DATA, TRAILER = range(4)

    def __init__(self, *, strict: bool):
        self.strict, self.done, self.payload = strict, False, 0
        self._state, self._left, self._line, self._trailer = self.SIZE, 0, b"", 0
        self._chunks = 0

    def feed(self, data: bytes) -> int:
        """Raises BadMessage where the framing is not exactly as RFC 9112, 7.1 writes it."""
        position, end = 0, len(data)
        while position < end:
            if self._state == self.SIZE and not self._line:
                position = self._whole_chunks(data, position, end)
                if position == end:
                    break
            if self._state == self.DATA:
                taken = min(self._left, end - position)
                position += taken
                self._left -= taken
                if self._left:
                    return position
                self._state = self.END_OF_DATA
                continue
            newline = data.find(b"\n", position)
            piece = data[position:] if newline < 0 else data[position : newline + 1]
            line = self._line + piece
            if len(line) > MAX_LINE:
                raise BadMessage("a line of a chunked body is too long")
            position += len(piece)
            if newline < 0:
                self._check_part(line)
                self._line = line
                return position
            self._line = b""
            if line[-2:] != b"\r\n" or line.count(b"\r") != 1:
                raise BadMessage("a line of a chunked body does not end with CR LF")
            if self._end_of_line(line[:-2]):
                return position
        return position

    def _whole_chunks(self, data: bytes, position: int, end: int) -> int:
        """Pass over chunks that are here as a whole and of a size seen before; returns where the first other thing begins."""
        start = position
        while True:
            line_end = data.find(b"\r\n", position)
            size = _SIZES.get(data[position:line_end], 0) if line_end > position else 0
            after = line_end + 2 + size
            if not size or after + 2 > end or data[after : after + 2] != b"\r\n":
                break
            self.payload += size
            self._chunks += 1
            position = after + 2
        if position > start:
            self._check_count()
        return position

    def _check_count(self) -> None:
        if self.strict and self._chunks > MANY_CHUNKS and self.payload < LITTLE_BYTES * self._chunks:
            raise BadMessage("the body is cut into too many small chunks")

    def _check_part(self, line: bytes) -> None:
        """Refuse early what can no longer become right, so that a peer cannot make us wait for it."""
        if self._state == self.END_OF_DATA and line != b"\r":
            raise BadMessage("a chunk is longer than its size")

    def _end_of_line(self, line: bytes) -> bool:
        if self._state == self.END_OF_DATA:
            if line:
                raise BadMessage("a chunk is longer than its size")
            self._state = self.SIZE
        elif self._state == self.SIZE:
            size, extension, _ = line.partition(b";")
            if extension and self.strict:
                raise BadMessage("chunk extensions are not accepted")
            if not 0 < len(size) <= 15 or not _HEX.issuperset(size):
                raise BadMessage("a chunk's size is not a hexadecimal number")
            self._left = int(size, 16)
            self.payload += self._left
            self._chunks += 1
            self._check_count()
            if self._left and len(_SIZES) < MAX_SIZES:
                _SIZES[size] = self._left
            self._state = self.DATA if self._left else self.TRAILER
        elif not line:
            self.done = True
            return True
        else:
            self._trailer += len(line)
            if self.strict or self._trailer > MAX_TRAILER_BYTES:
                raise BadMessage("trailers are not accepted")
        return False
