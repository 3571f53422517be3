"""The content hash: what a column holds, whatever its chunks, buffers and file layout are.

A column's digest covers its type, its shape and its values; the digest of a version covers the names and digests of its columns.
So a version that only adds a column shares the digests, and the cached arrays, of all the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .fields import column_of, is_raw, to_array
from .schema import Schema


def digest_column(field: pa.Field, values: pa.ChunkedArray) -> str:
    """SHA-256 over type, number of rows, positions of nulls, lengths and bytes. Nulls count as zero bytes."""
    column = column_of(field)
    body, lengths, nulls = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    start = 0
    for chunk in values.chunks:
        if chunk.null_count:
            nulls.update(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False)) + start)
        start += len(chunk)
        _update(chunk, column.shape, body, lengths)
    head = [_storage(field.type), column.type, list(column.shape or ()), len(values)]
    parts = [json.dumps(head).encode(), nulls.digest(), lengths.digest(), body.digest()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _storage(storage: pa.DataType) -> str:
    """The type's name without the names of inner fields, which mean nothing."""
    return f"{storage.value_type}[{storage.list_size}]" if is_raw(storage) else str(storage)


def _update(chunk: pa.Array, shape: tuple[int, ...] | None, body, lengths) -> None:
    storage = chunk.type
    if pa.types.is_string(storage) or pa.types.is_binary(storage):
        if chunk.null_count:
            chunk = chunk.fill_null("" if pa.types.is_string(storage) else b"")
        if not len(chunk):
            return
        # One buffer holds all values of a chunk, so the bytes between its first and last offset are hashed at once.
        offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths.update(np.diff(offsets))
        data = chunk.buffers()[2]
        if data is not None:
            body.update(memoryview(data)[offsets[0] : offsets[-1]])
    elif pa.types.is_fixed_size_list(storage):
        body.update(np.ascontiguousarray(to_array(chunk, shape)).view(np.uint8).reshape(-1))
    else:
        if pa.types.is_timestamp(storage):
            chunk = chunk.cast(pa.int64())
        if pa.types.is_boolean(storage):
            chunk = chunk.cast(pa.uint8())
        if chunk.null_count:
            chunk = pc.fill_null(chunk, 0)
        body.update(np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).view(np.uint8))


def content_hash(schema: Schema, digests: dict[str, str]) -> str:
    """SHA-256 over the columns in their order."""
    parts: Iterable = [[column.name, digests[column.name]] for column in schema]
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
