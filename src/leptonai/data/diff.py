"""What is different between two versions, or two datasets: columns, types, rows that came and went, parts, and how values shifted.

A row is known by its values, not its place: sorting a dataset changes nothing. The part that a row is in is compared apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .dataset import PARTS, Dataset
from .order import hash_rows
from .schema import SPLIT


@dataclass(frozen=True)
class Diff:
    """`rows_added`: rows of `b` that `a` has not, over the columns of both. `shifts`: {column: {fact: [a, b]}} where they differ."""

    a: str
    b: str
    columns_added: list[str]
    columns_removed: list[str]
    types_changed: dict[str, list[str]]
    rows: list[int]
    rows_added: int
    rows_removed: int
    parts: dict[str, list[int]]
    shifts: dict[str, dict[str, list[Any]]]

    @property
    def same(self) -> bool:
        parts_differ = any(a != b for a, b in self.parts.values())
        return not (
            self.columns_added
            or self.columns_removed
            or self.types_changed
            or self.rows_added
            or self.rows_removed
            or parts_differ
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "same": self.same}


def diff(a: Dataset, b: Dataset) -> Diff:
    """How to get from `a` to `b`."""
    shared = [name for name in a.schema.names if name in b.schema]
    types = {name: [a.schema[name].type, b.schema[name].type] for name in shared}
    changed = {name: pair for name, pair in types.items() if pair[0] != pair[1]}
    added, removed = _rows(a, b, [name for name in shared if name != SPLIT and name not in changed])
    return Diff(
        a.ref,
        b.ref,
        columns_added=[name for name in b.schema.names if name not in a.schema],
        columns_removed=[name for name in a.schema.names if name not in b.schema],
        types_changed=changed,
        rows=[a.num_rows, b.num_rows],
        rows_added=added,
        rows_removed=removed,
        parts={part: [_part(a, part), _part(b, part)] for part in PARTS if SPLIT in a.schema or SPLIT in b.schema},
        shifts=_shifts(a, b, [name for name in shared if name not in changed and name != SPLIT]),
    )


def _part(dataset: Dataset, part: str) -> int:
    return len(dataset.rows(part)) if SPLIT in dataset.schema else 0


def _rows(a: Dataset, b: Dataset, names: list[str]) -> tuple[int, int]:
    if all(a.digests[name] == b.digests[name] for name in names) and names:
        return 0, 0
    both = a.num_rows + b.num_rows
    hashes = np.zeros(both, np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            # The same value has the same code on both sides, so rows are compared without a Python object per value.
            codes = _codes(a.table([name]).column(0), b.table([name]).column(0))
            hashes = hash_rows(hashes ^ codes.astype(np.uint64), name)
    _, inverse = np.unique(hashes, return_inverse=True)
    kinds = int(inverse.max(initial=-1)) + 1
    before = np.bincount(inverse[: a.num_rows], minlength=kinds)
    after = np.bincount(inverse[a.num_rows :], minlength=kinds)
    return int(np.maximum(after - before, 0).sum()), int(np.maximum(before - after, 0).sum())


def _codes(a: pa.ChunkedArray, b: pa.ChunkedArray) -> np.ndarray:
    """(rows of a + rows of b,) numbers that are equal where values are; 0 is null."""
    a, b = _to_binary(a), _to_binary(b)
    if a.type != b.type:
        # An image as a file and as raw numbers, or numbers of another width: compared as text or bytes, they differ.
        plain = pa.large_binary() if pa.types.is_binary(a.type) or pa.types.is_binary(b.type) else pa.float64()
        a, b = a.cast(plain), b.cast(plain)
    encoded = pa.chunked_array([*a.chunks, *b.chunks], a.type).dictionary_encode().unify_dictionaries()
    return np.concatenate(
        [pc.add(pc.fill_null(chunk.indices.cast(pa.int64()), -1), 1).to_numpy() for chunk in encoded.chunks]
    )


def _to_binary(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Raw images and tensors as the bytes of a row; all else as it is."""
    if not pa.types.is_fixed_size_list(values.type):
        return values
    width = values.type.list_size * values.type.value_type.bit_width // 8
    chunks = []
    for chunk in values.chunks:
        numbers = chunk.values.slice(chunk.offset * values.type.list_size, len(chunk) * values.type.list_size)
        data = pa.py_buffer(np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False)))
        validity = pa.py_buffer(np.packbits(chunk.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))
        chunks.append(pa.Array.from_buffers(pa.binary(width), len(chunk), [validity, data]))
    return pa.chunked_array(chunks, pa.binary(width))


def _shifts(a: Dataset, b: Dataset, names: list[str]) -> dict[str, dict[str, list[Any]]]:
    found = {}
    for name in names:
        before, after = a.profile[name], b.profile[name]
        facts = {
            fact: [before.get(fact), after.get(fact)] for fact in ("missing", "distinct", "min", "max", "mean", "std")
        }
        facts = {fact: pair for fact, pair in facts.items() if pair[0] != pair[1]}
        if facts:
            found[name] = facts
    return found
