"""Frames between the server's process and the engine's: four bytes of length, then msgpack. Owns both directions' types.

One frame carries everything that a step produced, or everything that the server said since it last wrote.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from .backend import Delta, GenRequest, ModelInfo, Stats

MAX_FRAME_BYTES = 1 << 30
HEADER = struct.Struct("<I")


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `lep serve llm:` hands to the engine's process. None: the engine decides."""

    model: str
    name: str = ""
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: int | None = None
    dtype: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_queue: int | None = None
    kv_cache_bytes: int | None = None
    num_speculative_tokens: int | None = None
    enable_prefix_caching: bool = True
    adapters: dict[str, str] = {}


class Add(msgspec.Struct, tag="add"):
    request: GenRequest


class Abort(msgspec.Struct, tag="abort"):
    id: str


class LoadAdapter(msgspec.Struct, tag="load"):
    """path None: unload."""

    call: int
    name: str
    path: str | None


class Ready(msgspec.Struct, tag="ready"):
    info: ModelInfo


class Failed(msgspec.Struct, tag="failed"):
    """The engine cannot start, and will not by trying again."""

    message: str


class Refusal(msgspec.Struct, frozen=True):
    """An error for the one who asked. kind: the class in base/errors.py."""

    kind: str
    message: str


class Step(msgspec.Struct, tag="step", omit_defaults=True):
    """What one step added, who was not let in, which calls were answered (None: done)."""

    deltas: list[tuple[str, Delta]] = []
    refused: list[tuple[str, Refusal]] = []
    answers: list[tuple[int, Refusal | None]] = []
    stats: Stats | None = None


ToEngine = list[Add | Abort | LoadAdapter]
FromEngine = Ready | Failed | Step

_encoder = msgspec.msgpack.Encoder()
to_engine = msgspec.msgpack.Decoder(ToEngine)
from_engine = msgspec.msgpack.Decoder(FromEngine)


def frame(message: Any) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        bodies, at = [], 0
        while len(buffer) - at >= 4:
            (length,) = HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(buffer) - at - 4 < length:
                break
            bodies.append(bytes(buffer[at + 4 : at + 4 + length]))
            at += 4 + length
        del buffer[:at]
        return bodies
