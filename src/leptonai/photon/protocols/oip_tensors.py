"""Tensors as the Open Inference Protocol writes them: lists in JSON, or raw little-endian bytes after the JSON (the binary extension).

Nothing is allocated by what a request claims: a shape is multiplied out in Python, and must be what its bytes or its list hold.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np

from ...base.errors import InvalidInput, did_you_mean
from ..runtimes.signature import NUMPY, elements

_LENGTH = struct.Struct("<I")
_UNREAD = ("shared_memory_region", "shared_memory_offset", "classification")


class InferInput(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[InferInput]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[InferOutput] | None = None


def tensors_of(inputs: list[InferInput], binary: memoryview) -> dict[str, np.ndarray]:
    """The tensors of a request; raise InvalidInput for one that is not what its shape and type say."""
    found: dict[str, np.ndarray] = {}
    position = 0
    for given in inputs:
        where = f"input {given.name!r}"
        if given.name in found:
            raise InvalidInput(f"{where} is there twice")
        if given.datatype not in NUMPY:
            raise InvalidInput(
                f"{where} has an unknown data type", received=given.datatype, fix=did_you_mean(given.datatype, NUMPY)
            )
        count = elements(given.shape, where)
        refuse_parameters(given.parameters, where)
        size = given.parameters.get("binary_data_size")
        if size is None:
            found[given.name] = from_list(given.data, given.datatype, given.shape, count, where)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - position:
            raise InvalidInput(
                f"{where} says it has {size!r} bytes", received=f"{len(binary) - position} bytes are there"
            )
        if given.data is not None:
            raise InvalidInput(f"{where} has its data both as a list and as bytes")
        found[given.name] = from_bytes(binary[position : position + size], given.datatype, given.shape, count, where)
        position += size
    if position != len(binary):
        raise InvalidInput("there are bytes after the last input", received=f"{len(binary) - position} bytes")
    return found


def from_bytes(raw: memoryview, datatype: str, shape: list[int], count: int, where: str) -> np.ndarray:
    """A view of `raw`: no copy."""
    if datatype == "BYTES":
        return _texts(raw, shape, count, where)
    dtype = np.dtype(NUMPY[datatype]).newbyteorder("<")
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            f"{where} does not have the bytes of its shape",
            received=f"{len(raw):,} bytes",
            expected=f"{count * dtype.itemsize:,}",
        )
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"{where} holds bytes that are neither true nor false")
    return array.reshape(shape)


def _texts(raw: memoryview, shape: list[int], count: int, where: str) -> np.ndarray:
    parts, position = [], 0
    while position < len(raw):
        if len(parts) >= count or len(raw) - position < 4:
            break
        (size,) = _LENGTH.unpack_from(raw, position)
        position += 4
        if size > len(raw) - position:
            raise InvalidInput(f"{where} is cut short", received=f"{len(raw) - position} bytes", expected=f"{size}")
        parts.append(bytes(raw[position : position + size]))
        position += size
    if len(parts) != count or position != len(raw):
        raise InvalidInput(
            f"{where} does not hold as many texts as its shape", received=len(parts), expected=str(count)
        )
    array = np.empty(count, object)
    array[:] = parts
    return array.reshape(shape)


def from_list(data: Any, datatype: str, shape: list[int], count: int, where: str) -> np.ndarray:
    """Data in JSON: in one list, or nested as the shape is."""
    if not isinstance(data, list):
        raise InvalidInput(f"{where} has no data", expected="`data`, or bytes and their `binary_data_size`")
    if datatype == "BYTES":
        flat = list(_flat(data, where))
        if len(flat) != count or not all(isinstance(text, str) for text in flat):
            raise InvalidInput(
                f"{where} does not hold as many texts as its shape", received=len(flat), expected=str(count)
            )
        array = np.empty(count, object)
        array[:] = [text.encode("utf-8", "replace") for text in flat]
        return array.reshape(shape)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise InvalidInput(f"{where} has lists of different lengths", expected=f"shape {shape}") from None
    wanted = np.dtype(NUMPY[datatype])
    if array.size != count:
        raise InvalidInput(
            f"{where} does not hold as many numbers as its shape", received=array.size, expected=str(count)
        )
    if (array.dtype.kind not in "biuf" or (array.dtype.kind == "b") != (wanted.kind == "b")) and count:
        raise InvalidInput(f"{where} does not hold {datatype}", received=data)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(wanted)
    if wanted.kind in "iu" and not (converted == array).all():
        raise InvalidInput(f"{where} has numbers that {datatype} does not hold", received=data)
    return converted.reshape(shape)


def _flat(data: list[Any], where: str, depth: int = 0) -> Any:
    if depth > 32:
        raise InvalidInput(f"{where} is nested too deeply")
    for part in data:
        if isinstance(part, list):
            yield from _flat(part, where, depth + 1)
        else:
            yield part


def to_bytes(tensor: np.ndarray) -> bytes:
    if tensor.dtype == object:
        return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.reshape(-1))
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()


def to_list(tensor: np.ndarray) -> list[Any]:
    """All elements in one list; what JSON cannot say (NaN, infinity) as null."""
    flat = tensor.reshape(-1)
    if tensor.dtype == object:
        return [text.decode("utf-8", "replace") for text in flat]
    if tensor.dtype.kind == "f" and not np.isfinite(flat).all():
        return np.where(np.isfinite(flat), flat.astype(object), None).tolist()
    return flat.tolist()


def refuse_parameters(parameters: dict[str, Any], where: str) -> None:
    for name in _UNREAD:
        if name in parameters:
            raise InvalidInput(f"{where} uses an extension that this server does not speak", received=name)
