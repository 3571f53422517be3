"""Making versions: put a table, append rows, split. Content hash first, then the table, then the commit point."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import InvalidInput
from . import splits
from .dataset import PARTS, Dataset, from_record, to_record
from .fields import field_of, schema_of
from .hashing import content_hash, digest_column
from .profile import profile_column
from .schema import SPLIT, Column, Schema
from .store import Store, physical

Progress = Callable[[str, int, int], None]


def put(store: Store, table: pa.Table, *, description: str, lineage: Mapping[str, Any], progress: Progress) -> Dataset:
    """`table` as a version of `store`: one that has this content already, or a new one."""
    schema = schema_of(table)
    digests = _each_column(table, lambda field, values: digest_column(field, values))
    digest = content_hash(schema, digests)
    with store.writing():
        if (same := _same_content(store, digest)) is not None:
            return same
        progress("writing", 0, 1)
        with store.durable(), ThreadPoolExecutor(1) as pool:
            # Lance writes with its own threads and without the interpreter's lock, so the profile costs little beside it.
            writing = pool.submit(store.write, table, "overwrite" if store.versions() else "create")
            profile = _each_column(table, lambda field, values: profile_column(schema[field.name], values))
            version = writing.result()
        return _commit(
            store, schema, num_rows=table.num_rows, content_hash=digest, digests=digests, profile=profile, lineage=dict(lineage),
            description=description, lance_version=version,
        )  # fmt: skip


def append(dataset: Dataset, source: Any, lineage: Mapping[str, Any]) -> Dataset:
    """Rows go behind those of `dataset`, whether or not it is the newest version."""
    from .coerce import coerce

    store = Store(dataset.name, dataset.home)
    rows, schema = coerce(source, dataset)
    if rows.num_rows == 0:
        return dataset
    with store.writing():
        with store.durable():
            if store.open(dataset.lance_version).latest_version != dataset.lance_version:
                store.open(dataset.lance_version).restore()
            version = store.write(rows, "append")
        table = store.open(version)
        digests, profile = {}, {}
        for column in schema:
            # One column at a time: a table of images need not fit in memory.
            values = table.to_table(columns=[physical(column.name)], scan_in_order=True).column(0)
            digests[column.name] = digest_column(field_of(column, values.type), values)
            profile[column.name] = profile_column(column, values)
        facts = {"kind": "append", "parent": dataset.ref, "rows": rows.num_rows, **lineage}
        return _commit(
            store, schema, num_rows=dataset.num_rows + rows.num_rows, content_hash=content_hash(schema, digests), digests=digests,
            profile=profile, lineage=facts, description=dataset.description, lance_version=version,
        )  # fmt: skip


def split(
    dataset: Dataset, *, test: float, validation: float, seed: int, stratify: str | None, group: str | None
) -> Dataset:
    """The column `split`, made or completed. Asked again for parts that exist, the same version comes back."""
    splits.check_fractions(test, validation)
    if stratify and group:
        raise InvalidInput(
            "a split is stratified or grouped, not both",
            received=f"--stratify {stratify} --group {group}",
            fix="Give one of them.",
        )
    dataset.check_columns([name for name in (stratify, group) if name])
    before = _parts_now(dataset)
    wanted = {"test": test, "validation": validation}
    asked = {part: 0.0 if (before == PARTS.index(part)).any() else share for part, share in wanted.items()}
    facts = {"test": test, "validation": validation, "seed": seed, "stratify": stratify, "group": group}
    if not any(asked.values()):
        made = dataset.lineage.get("split", facts)
        if made == facts:
            return dataset
        raise InvalidInput(
            f"{dataset.ref} is split already, and a test row stays a test row", received=str(facts), expected=str(made),
            fix="Split a version that has no split yet; see: lep data versions " + dataset.name + ".",
        )  # fmt: skip
    free = np.flatnonzero(before == 0)
    parts = before.copy()
    parts[free] = _assign(dataset, free, asked["test"], asked["validation"], seed, stratify, group)
    return _put_split(dataset, parts, facts)


def _parts_now(dataset: Dataset) -> np.ndarray:
    """(n,) int8: the part of every row, train where it has none."""
    parts = np.zeros(dataset.num_rows, np.int8)
    if SPLIT not in dataset.schema:
        return parts
    column = dataset.table([SPLIT]).column(0)
    distinct = pc.unique(column).to_pylist()
    strange = next((value for value in distinct if value is not None and value not in PARTS), None)
    if strange is not None:
        raise InvalidInput(
            f"column {SPLIT!r} of {dataset.ref} holds something else than parts", received=strange,
            expected="train, validation or test", fix="Rename the column and import again.",
        )  # fmt: skip
    for number, part in enumerate(PARTS):
        parts[pc.fill_null(pc.equal(column, part), False).to_numpy()] = number
    return parts


def _assign(
    dataset: Dataset,
    free: np.ndarray,
    test: float,
    validation: float,
    seed: int,
    stratify: str | None,
    group: str | None,
) -> np.ndarray:
    if not stratify and not group:
        return splits.split_rows(len(free), test, validation, seed)
    column = stratify or group
    if dataset.schema[column].type in ("image", "audio", "tensor") or (
        stratify and dataset.schema[column].type in ("number", "timestamp")
    ):
        raise InvalidInput(
            f"column {column!r} of type {dataset.schema[column].type} does not tell classes",
            fix="Choose a category, integer, boolean or text column.",
        )
    encoded = dataset.table([column]).column(0).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()[free].astype(np.int64)
    names = encoded.dictionary.to_pylist()
    # Codes follow the values, not the order of rows in which they were met.
    rank = np.argsort(np.argsort([str(name) for name in names], kind="stable")) if names else np.empty(0, np.int64)
    codes = np.where(codes >= 0, rank[codes] if names else codes, -1)
    if group:
        return splits.split_grouped(codes, test, validation, seed, column)
    ordered = [name for _, name in sorted(zip(rank, names, strict=True), key=lambda pair: pair[0])]
    return splits.split_stratified(codes, ordered, test, validation, seed, column)


def _put_split(dataset: Dataset, parts: np.ndarray, facts: dict[str, Any]) -> Dataset:
    """Only the new column is written: all others stay in the files, and in the cache, that they are in."""
    store = Store(dataset.name, dataset.home)
    column = Column(SPLIT, "text")
    others = [other for other in dataset.schema if other.name != SPLIT]
    schema = Schema((*others, column))
    values = pa.chunked_array(
        [pa.DictionaryArray.from_arrays(pa.array(parts), pa.array(PARTS, pa.string())).cast(pa.string())]
    )
    digests = {other.name: dataset.digests[other.name] for other in others}
    digests[SPLIT] = digest_column(field_of(column, pa.string()), values)
    digest = content_hash(schema, digests)
    with store.writing():
        if (same := _same_content(store, digest)) is not None:
            return same
        with store.durable():
            table = store.open(dataset.lance_version)
            if table.latest_version != dataset.lance_version:
                table.restore()
                table = store.open(table.latest_version)
            if SPLIT in dataset.schema:
                table.drop_columns([SPLIT])
            table.add_columns(pa.table({SPLIT: values}).to_reader())
            version = table.latest_version
        profile = {other.name: dataset.profile[other.name] for other in others} | {SPLIT: _split_profile(parts)}
        lineage = {"kind": "split", "parent": dataset.ref, "split": facts}
        return _commit(
            store, schema, num_rows=dataset.num_rows, content_hash=digest, digests=digests, profile=profile, lineage=lineage,
            description=dataset.description, lance_version=version,
        )  # fmt: skip


def _split_profile(parts: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(parts, minlength=3).tolist()
    top = sorted(([name, count] for name, count in zip(PARTS, counts, strict=True) if count), key=lambda pair: -pair[1])
    return {"type": "text", "missing": 0, "distinct": len(top), "top": top}


def _each_column(table: pa.Table, work: Callable[[pa.Field, pa.ChunkedArray], Any]) -> dict[str, Any]:
    """Columns side by side: hashing and Arrow's kernels release the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(work, table.schema, table.columns)
        return dict(zip(table.column_names, results, strict=True))


def _same_content(store: Store, digest: str) -> Dataset | None:
    """The newest version with this content."""
    records = (store.read(version) for version in reversed(store.versions()))
    return next((from_record(record, store.home) for record in records if record["content_hash"] == digest), None)


def _commit(store: Store, schema: Schema, **facts: Any) -> Dataset:
    record = to_record(schema, **facts)
    return from_record(store.read(store.commit(record)), store.home)
