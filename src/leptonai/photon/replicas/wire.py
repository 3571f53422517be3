"""What passes between the server and a model process: msgpack frames over one socket pair, arrays beside them in shared memory.

The socket pair has no name, so nobody else can connect to it. Every frame has a schema; nothing in it becomes code. One call is
in flight at a time, so the shared memory needs no bookkeeping: the writer fills it from its beginning.
"""

from __future__ import annotations

import mmap
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ...base.errors import Corrupt

INLINE_BYTES = 32 << 10
"""Arrays of one call up to this size travel in the frame: a copy through the socket costs less than the bookkeeping."""
MAX_FRAME_BYTES = 1 << 30
_ALIGN = 64
_DTYPE = re.compile(r"[<>|=][biufSM][0-9]{1,3}(\[[a-z]{1,2}\])?\Z")


class Column(msgspec.Struct, array_like=True):
    """An array (`data`, or `offset` into the shared memory), or texts, or byte strings of `shape`."""

    name: str
    dtype: str = ""
    shape: list[int] = []
    offset: int = -1
    data: bytes | None = None
    texts: list[str | None] | None = None
    parts: list[bytes] | None = None


class Load(msgspec.Struct, tag="load"):
    """The first frame to a new process: which model. `sample`: JSON rows that say what inputs it takes."""

    ref: str
    home: str
    workspace: str
    sample: bytes | None = None


class Ready(msgspec.Struct, tag="ready"):
    kind: str
    signature: dict[str, Any] | None = None
    example: list[Column] | None = None


class Call(msgspec.Struct, tag="call"):
    columns: list[Column]
    shared_bytes: int = 0


class Result(msgspec.Struct, tag="result"):
    columns: list[Column]
    shared_bytes: int = 0


class Failure(msgspec.Struct, tag="failure"):
    """`code`: the name of a class of base/errors.py, or "" for a fault whose details are in the log."""

    text: str
    code: str = ""


TO_PROCESS = msgspec.msgpack.Decoder(Load | Call)
FROM_PROCESS = msgspec.msgpack.Decoder(Ready | Result | Failure)
_ENCODER = msgspec.msgpack.Encoder()
_HEAD = struct.Struct("<I")


def send(connection: socket.socket, message: Any) -> None:
    body = _ENCODER.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise Corrupt("a batch is too large for the wire", received=f"{len(body):,} bytes")
    connection.sendall(_HEAD.pack(len(body)) + body)


def receive(connection: socket.socket, decoder: msgspec.msgpack.Decoder) -> Any:
    """The next frame; raise EOFError where the other side has gone, Corrupt for a frame that is none of ours."""
    (size,) = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if size > MAX_FRAME_BYTES:
        raise Corrupt("a frame is too large", received=f"{size:,} bytes")
    try:
        return decoder.decode(_exactly(connection, size))
    except msgspec.MsgspecError as error:
        raise Corrupt("a frame is not of the wire's schema", received=str(error)) from None


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        got = connection.recv_into(view[have:])
        if not got:
            raise EOFError
        have += got
    return data


class Shared:
    """An anonymous memory file that one side writes and the other reads; it grows with the largest call."""

    def __init__(self, descriptor: int):
        self.descriptor, self.size = descriptor, 0
        self.map: mmap.mmap | None = None

    @classmethod
    def create(cls, name: str) -> Shared:
        return cls(os.memfd_create(name, os.MFD_CLOEXEC))

    def reserve(self, size: int) -> mmap.mmap:
        """The mapping, at least `size` bytes long. The arrays that point into the one before must be gone or unused."""
        if size > self.size or self.map is None:
            self.size = max(size, 2 * self.size, 1 << 20)
            if os.fstat(self.descriptor).st_size < self.size:
                os.ftruncate(self.descriptor, self.size)
            self.map = mmap.mmap(self.descriptor, self.size)
        return self.map

    def close(self) -> None:
        self.map = None
        os.close(self.descriptor)


def pack(columns: Mapping[str, Any], shared: Shared) -> tuple[list[Column], int]:
    """Columns for a frame, and how many bytes of the shared memory they use."""
    arrays = {
        name: np.ascontiguousarray(c) for name, c in columns.items() if isinstance(c, np.ndarray) and c.dtype != object
    }
    total = sum(_ALIGN + array.nbytes for array in arrays.values())
    memory = shared.reserve(total) if total > INLINE_BYTES else None
    packed, position = [], 0
    for name, column in columns.items():
        if name in arrays:
            array = arrays[name]
            # ascontiguousarray makes a number of a shape () a vector; the shape that counts is the column's.
            one = Column(name, array.dtype.str, list(column.shape))
            if memory is None:
                one.data = array.tobytes()
            else:
                np.ndarray(array.shape, array.dtype, memory, position)[...] = array
                one.offset = position
                position += -(-array.nbytes // _ALIGN) * _ALIGN
            packed.append(one)
        elif isinstance(column, np.ndarray):
            packed.append(Column(name, "O", list(column.shape), parts=[bytes(part) for part in column.reshape(-1)]))
        else:
            packed.append(Column(name, texts=list(column)))
    return packed, position


def unpack(columns: list[Column], shared: Shared, shared_bytes: int) -> dict[str, Any]:
    """The columns of a frame; arrays are views of the shared memory, valid until the next call."""
    memory = shared.reserve(shared_bytes) if shared_bytes else None
    found: dict[str, Any] = {}
    for column in columns:
        if column.texts is not None:
            found[column.name] = column.texts
        elif column.parts is not None:
            flat = np.empty(len(column.parts), object)
            flat[:] = column.parts
            found[column.name] = flat.reshape(column.shape)
        elif not _DTYPE.match(column.dtype):
            raise Corrupt("an array of a frame has a type that does not travel", received=column.dtype)
        elif column.data is not None:
            found[column.name] = np.frombuffer(bytearray(column.data), column.dtype).reshape(column.shape)
        elif memory is not None:
            found[column.name] = np.ndarray(tuple(column.shape), column.dtype, memory, column.offset)
        else:
            raise Corrupt("an array of a frame has no data", received=column.name)
    return found
