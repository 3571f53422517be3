"""How a Column is kept in Arrow: one canonical Arrow type per column type, the meaning in the field's metadata.

| type | Arrow |        | type | Arrow |
|---|---|---|---|---|
| number | float64 or float32 | | timestamp | timestamp[us], UTC if it has a zone |
| integer | int64 | | image | binary (an encoded file) or fixed_size_list<uint8> of shape (H, W, C) |
| boolean | bool | | audio | binary (a WAV file) |
| category, text | string | | tensor | fixed_size_list of a number type |
"""

from __future__ import annotations

import json
import math

import pyarrow as pa

from .schema import TYPES, Column, Schema

TYPE_KEY, SHAPE_KEY = b"lepton.type", b"lepton.shape"


def field_of(column: Column, storage: pa.DataType) -> pa.Field:
    metadata = {TYPE_KEY: column.type.encode()}
    if column.shape is not None:
        metadata[SHAPE_KEY] = json.dumps(list(column.shape)).encode()
    return pa.field(column.name, storage, metadata=metadata)


def column_of(field: pa.Field) -> Column | None:
    """The Column that a field's metadata tells of, or None if it tells of none."""
    metadata = field.metadata or {}
    kind = metadata.get(TYPE_KEY, b"").decode()
    if kind not in TYPES:
        return None
    shape = metadata.get(SHAPE_KEY)
    return Column(field.name, kind, tuple(json.loads(shape)) if shape else None)


def schema_of(table: pa.Table | pa.Schema) -> Schema:
    """The Schema of a typed table; KeyError for a table whose fields carry no types."""
    schema = table if isinstance(table, pa.Schema) else table.schema
    columns = [column_of(field) for field in schema]
    if None in columns:
        raise KeyError("the table is not typed")
    return Schema(tuple(columns))


def is_raw(storage: pa.DataType) -> bool:
    """Whether values are plain numbers of one size (raw images, tensors), not encoded bytes."""
    return pa.types.is_fixed_size_list(storage)


def from_array(values, shape: tuple[int, ...] | None = None) -> pa.FixedSizeListArray:
    """(n, *shape) numbers as one fixed size list per row, without a copy where the array is contiguous."""
    import numpy as np

    values = np.ascontiguousarray(values)
    shape = values.shape[1:] if shape is None else shape
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), math.prod(shape))


def to_array(column: pa.Array | pa.ChunkedArray, shape: tuple[int, ...] | None):
    """The inverse of `from_array`: (n, *shape); a null row becomes NaN, or 0 where the numbers are not floats."""
    import numpy as np

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    size = column.type.list_size
    shape = shape if shape is not None else (size,)
    parts = []
    for chunk in chunks:
        # `.values` ignores the slice and keeps a place for null rows, so the offset is applied here.
        values = chunk.values.slice(chunk.offset * size, len(chunk) * size)
        part = values.to_numpy(zero_copy_only=False).reshape(len(chunk), *shape)
        if chunk.null_count:
            part = part.copy()
            part[chunk.is_null().to_numpy(zero_copy_only=False)] = np.nan if part.dtype.kind == "f" else 0
        parts.append(part)
    if not parts:
        return np.empty((0, *shape), dtype=column.type.value_type.to_pandas_dtype())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
