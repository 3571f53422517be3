"""MNIST's idx files, plain or gzipped: a header that tells shape and type, then the numbers. Images become raw (H, W, 1)."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...base.errors import Corrupt, InvalidInput, Refused
from ..archive import MOST_BYTES, Tree
from ..fields import field_of, from_array
from ..schema import SPLIT, Column

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PART = re.compile(r"(?P<part>train|t10k|test|validation|val)[-_.](?P<what>images|labels)", re.IGNORECASE)
PARTS = {"train": "train", "t10k": "test", "test": "test", "validation": "validation", "val": "validation"}


def is_idx(name: str) -> bool:
    return re.search(r"(idx\d[-.]u?byte|\.idx)(\.gz)?$", name) is not None


def read_array(name: str, content: bytes) -> np.ndarray:
    """The array in `content`, unpacked no further than its header says; raise Corrupt if it is cut short."""
    head = _head(name, content)
    zero, kind, axes = int.from_bytes(head[:2], "big"), head[2], head[3]
    if zero or kind not in TYPES or not 1 <= axes <= 8 or len(head) < 4 + 4 * axes:
        raise InvalidInput(f"{name} is not an idx file", received=head[:4].hex(), expected="a header such as 00000803")
    shape = tuple(np.frombuffer(head, ">u4", axes, 4).tolist())
    dtype = np.dtype(TYPES[kind])
    expected = math.prod(shape) * dtype.itemsize
    if expected > MOST_BYTES:
        raise Refused(
            f"{name} says it holds too much", received=f"{expected:,} bytes", expected=f"at most {MOST_BYTES:,}"
        )
    body = _unpack(name, content, 4 + 4 * axes, expected)
    if len(body) != expected:
        raise Corrupt(
            f"{name} is cut short" if len(body) < expected else f"{name} is longer than its header says",
            received=f"{len(body):,} bytes", expected=f"{expected:,} for shape {shape}", fix="Download it again.",
        )  # fmt: skip
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _head(name: str, content: bytes) -> bytes:
    head = content[:36]
    if content[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(content, 36)
        except zlib.error as error:
            raise Corrupt(f"{name} is not a whole gzip file", fix="Download it again.") from error
    if len(head) < 4:
        raise Corrupt(
            f"{name} is cut short", received=f"{len(head)} bytes", expected="an idx header", fix="Download it again."
        )
    return head


def _unpack(name: str, content: bytes, start: int, expected: int) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content[start:]
    import io

    try:
        with gzip.open(io.BytesIO(content)) as file:
            file.read(start)
            # One byte more than expected tells a longer file apart without unpacking all of it.
            return file.read(expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Corrupt(f"{name} is cut short or damaged ({error})", fix="Download it again.") from error


def array_column(name: str, values: np.ndarray) -> tuple[pa.Field, pa.Array]:
    """(n,) numbers as they are; (n, H, W[, C]) uint8 as raw images; any other shape as a tensor."""
    if values.ndim == 1:
        array = pa.array(values, from_pandas=True)
        return pa.field(name, array.type), array
    channels_last = values.ndim == 4 and values.shape[3] in (1, 3)
    if values.dtype == np.uint8 and (values.ndim == 3 or channels_last):
        shape = values.shape[1:] if values.ndim == 4 else (*values.shape[1:], 1)
        array = from_array(values)
        return field_of(Column(name, "image", tuple(shape)), array.type), array
    array = from_array(values)
    return field_of(Column(name, "tensor", tuple(values.shape[1:])), array.type), array


def read_file(path: Path) -> pa.Table:
    """One idx file: its column alone; MNIST's images bring the labels that lie beside them."""
    beside = _partner(path)
    names = (path.name, beside.name) if beside else (path.name,)
    return read_tree(Tree(path.parent, names))


def _partner(path: Path) -> Path | None:
    for a, b, c, d in (("images", "labels", "idx3", "idx1"), ("labels", "images", "idx1", "idx3")):
        for name in (path.name.replace(a, b).replace(c, d), path.name.replace(a, b)):
            if name != path.name and path.with_name(name).is_file():
                return path.with_name(name)
    return None


def read_tree(tree: Tree) -> pa.Table:
    """Columns image and label of every part; a column `split` where there is more than one part."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name in (name for name in tree.names if is_idx(name)):
        match = PART.search(name)
        part, what = (PARTS[match["part"].lower()], match["what"].lower()) if match else ("train", "")
        values = read_array(tree.label(name), tree.read(name))
        column = {"images": "image", "labels": "label"}.get(what) or (
            "image" if values.ndim == 3 else "label" if values.ndim == 1 else "value"
        )
        if column in parts.setdefault(part, {}):
            raise InvalidInput(
                "two idx files are for the same column",
                received=name,
                fix="Import one of them, or name them as MNIST does.",
            )
        parts[part][column] = values
    tables = []
    for part, columns in sorted(parts.items(), key=lambda item: ["train", "validation", "test"].index(item[0])):
        counts = {column: len(values) for column, values in columns.items()}
        if len(set(counts.values())) > 1:
            raise InvalidInput(
                f"the {part} part has unequal numbers of rows",
                received=counts,
                fix="Get both files of the same data set.",
            )
        fields, arrays = zip(*(array_column(column, columns[column]) for column in sorted(columns)), strict=True)
        table = pa.Table.from_arrays(list(arrays), schema=pa.schema(fields))
        if len(parts) > 1:
            table = table.append_column(SPLIT, pa.array([part] * table.num_rows, pa.string()))
        tables.append(table)
    if len({table.schema for table in tables}) > 1:
        raise InvalidInput(
            "the parts have different columns or image sizes", received=[str(table.schema.names) for table in tables]
        )
    return pa.concat_tables(tables)
