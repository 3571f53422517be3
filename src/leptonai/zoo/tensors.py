"""`safetensors` as bytes: a header that is checked before anything is allocated, then arrays that are views of the file's bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from ..base.errors import Corrupt, InvalidInput, shorten
from ..base.structs import prepare

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER = 100_000_000
# Bytes of one element, and the numpy type that holds it (bfloat16 has none: it is widened to float32, which loses nothing).
DTYPES = {
    "BOOL": (1, "bool"),
    "U8": (1, "uint8"),
    "I8": (1, "int8"),
    "U16": (2, "<u2"),
    "I16": (2, "<i2"),
    "F16": (2, "<f2"),
    "BF16": (2, "<u2"),
    "U32": (4, "<u4"),
    "I32": (4, "<i4"),
    "F32": (4, "<f4"),
    "U64": (8, "<u8"),
    "I64": (8, "<i8"),
    "F64": (8, "<f8"),
}


class TensorInfo(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


prepare(TensorInfo)


def read_header(start: bytes, file_bytes: int, where: str) -> tuple[dict[str, TensorInfo], int]:
    """Tensors by name, and where their data begins. `start` is the file's beginning: at least 8 bytes and the whole header.

    Raises Corrupt if the file is cut short or is not safetensors, InvalidInput for a type that we cannot hold.
    """
    length = header_length(start, file_bytes, where)
    try:
        entries = msgspec.json.decode(start[8 : 8 + length], type=dict[str, dict[str, Any]])
        entries.pop("__metadata__", None)
        infos = msgspec.convert(entries, dict[str, TensorInfo])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"the header of {where} is not safetensors ({shorten(str(error), 120)})") from None
    position = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1].data_offsets):
        if info.dtype not in DTYPES:
            raise InvalidInput(
                f"{where}: tensor {shorten(name)!r} has a type that Lepton does not hold",
                received=info.dtype,
                expected=", ".join(DTYPES),
            )
        begin, end = info.data_offsets
        # One after the other with no hole and no overlap: then no tensor can reach outside the file or into another.
        if (
            begin != position
            or any(size < 0 for size in info.shape)
            or end - begin != info.elements * DTYPES[info.dtype][0]
        ):
            raise Corrupt(f"{where}: the place of tensor {shorten(name)!r} does not fit its shape", received=info)
        position = end
    if 8 + length + position != file_bytes:
        raise Corrupt(
            f"{where} is {'cut short' if file_bytes < 8 + length + position else 'longer than its tensors'}",
            received=f"{file_bytes:,} bytes",
            expected=f"{8 + length + position:,} bytes",
        )
    return infos, 8 + length


def header_length(start: bytes, file_bytes: int, where: str) -> int:
    """Bytes of the JSON header, which follows the first eight."""
    length = int.from_bytes(start[:8], "little") if len(start) >= 8 else 0
    if len(start) < 8 or not 2 <= length <= min(file_bytes - 8, MAX_HEADER):
        raise Corrupt(f"{where} is cut short or is not safetensors", received=f"{file_bytes:,} bytes")
    return length


def read_tensors(buffer: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """Arrays that are views of `buffer`, the file's bytes as uint8 (bfloat16 is widened to float32)."""

    length = header_length(buffer[:8].tobytes(), buffer.size, where)
    infos, base = read_header(buffer[: 8 + length].tobytes(), buffer.size, where)
    tensors = {}
    for name, info in infos.items():
        begin, end = info.data_offsets
        size, dtype = DTYPES[info.dtype]
        data = buffer[base + begin : base + end]
        if (base + begin) % size:
            data = data.copy()
        array = data.view(dtype).reshape(info.shape)
        tensors[name] = (array.astype("<u4") << 16).view("<f4") if info.dtype == "BF16" else array
    return tensors


def parameter_count(infos: dict[str, TensorInfo]) -> int:
    return sum(info.elements for info in infos.values() if info.dtype not in ("U8", "BOOL"))


def write_tensors(tensors: dict[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file. The same tensors give the same bytes."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if array.dtype.kind not in "biuf":
            raise InvalidInput(
                f"tensor {name!r} cannot be stored", received=str(array.dtype), expected="numbers or booleans"
            )
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return save(arrays)
