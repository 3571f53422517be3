"""What each column means. Arrow's own types decide where they can; strings are told apart by how often values come again.

A string column is a `category` if it has few distinct values for its rows and they are short, `text` otherwise. Every guess can
be overridden (`types={"zip": "category"}`), and a column that has no value at all must be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import InvalidInput, did_you_mean
from .fields import column_of, field_of, is_raw
from .schema import SPLIT, TYPES, Column

MOST_CATEGORIES = 1000
LONGEST_CATEGORY = 64
"""Mean length, in bytes, past which repeated strings are text all the same."""
ISO_DATE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)"
PARTS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
         "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
"""What people call the parts of a dataset, and what we call them."""


def check_types(types: Mapping[str, str] | None, names: list[str]) -> dict[str, str]:
    """`types` if every key is a column and every value a type; raise InvalidInput with the nearest name otherwise."""
    for name, kind in (types or {}).items():
        if name not in names:
            raise InvalidInput(
                "a type is given for a column that is not there", received=name, fix=did_you_mean(name, names)
            )
        if kind not in TYPES:
            raise InvalidInput(
                f"column {name!r} is given an unknown type", received=kind, expected="one of " + ", ".join(TYPES),
                fix=did_you_mean(kind, TYPES),
            )  # fmt: skip
    return dict(types or {})


def check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidInput(f"column {position} has no name", fix="Give every column a name in the first line.")
        if name in seen:
            raise InvalidInput("two columns have the same name", received=name, fix="Rename one of them.")
        seen.add(name)


def typed(table: pa.Table, types: Mapping[str, str] | None = None) -> pa.Table:
    """`table` with every column in its canonical Arrow type and its meaning in the field's metadata."""
    table = flatten(table)
    check_names(table.column_names)
    types = check_types(types, table.column_names)
    if table.num_rows == 0:
        raise InvalidInput("there are no rows in it", fix="Give a source with at least one row of data.")
    fields, arrays = [], []
    for field, values in zip(table.schema, table.columns, strict=True):
        known = column_of(field)
        if known and types.get(field.name, known.type) == known.type:
            column, values = check_known(known, values)
        else:
            column, values = interpret(field.name, values, types.get(field.name))
        if column.name == SPLIT:
            column, values = known_parts(column, values)
        fields.append(field_of(column, values.type))
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def check_known(column: Column, values: pa.ChunkedArray) -> tuple[Column, pa.ChunkedArray]:
    """A column that says what it is: its values in the canonical Arrow type, its shape if they have it."""
    values = convert(column.name, values, column.type)
    if is_raw(values.type) and math.prod(column.shape or ()) != values.type.list_size:
        raise InvalidInput(
            f"column {column.name!r} does not have the shape that it says",
            received=f"{values.type.list_size} numbers a row",
            expected=f"shape {column.shape}",
        )
    return column, values


def flatten(table: pa.Table) -> pa.Table:
    """Nested objects become columns `outer.inner`; dictionaries become their values; lists of unequal length become JSON text."""
    while any(pa.types.is_struct(field.type) and not _is_file(field.type) for field in table.schema):
        table = table.flatten()
    return table


def interpret(name: str, values: pa.ChunkedArray, kind: str | None) -> tuple[Column, pa.ChunkedArray]:
    """The column's type (`kind` if given) and its values in the canonical Arrow type."""
    if pa.types.is_dictionary(values.type):
        values, kind = values.cast(values.type.value_type), kind or "category"
    if _is_file(values.type):
        values = _file_bytes(name, values)
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        values = pc.if_else(pc.is_nan(values), None, values)
    if kind is None and values.null_count == len(values):
        raise InvalidInput(
            f"column {name!r} has no value in any row",
            fix=f"Remove it, or keep it by saying what it is: --type {name}=number.",
        )
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = _even_lists(values)
    if kind is None and _is_string(values.type):
        values = _moments(values)
    kind = kind or infer(values)
    shape = (values.type.list_size,) if is_raw(values.type) else None
    return Column(name, kind, shape), convert(name, values, kind)


def infer(values: pa.ChunkedArray) -> str:
    storage = values.type
    if pa.types.is_boolean(storage):
        return "boolean"
    if pa.types.is_integer(storage):
        # Only unsigned 64-bit numbers can be past what int64 holds.
        return "number" if storage == pa.uint64() and (pc.max(values).as_py() or 0) >= 2**63 else "integer"
    if pa.types.is_floating(storage) or pa.types.is_decimal(storage) or pa.types.is_duration(storage):
        return "number"
    if pa.types.is_temporal(storage) and not pa.types.is_time(storage):
        return "timestamp"
    if is_raw(storage):
        return "tensor"
    if _is_binary(storage):
        return _infer_binary(values)
    return "category" if _few(values) else "text"


def _moments(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings that are all ISO 8601 moments as timestamps; any others as they are."""
    head = values.slice(0, 100).drop_null()
    if not len(head) or not pc.all(pc.match_substring_regex(head, ISO_DATE)).as_py():
        return values
    for storage in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return values.cast(storage)
        except pa.ArrowInvalid:
            continue
    return values


def _few(values: pa.ChunkedArray) -> bool:
    if not _is_string(values.type):
        return False
    rows = len(values) - values.null_count
    most = min(MOST_CATEGORIES, max(50, rows // 20))
    # A look at the first rows settles free text without hashing all of it.
    head = values.slice(0, 4 * most)
    if pc.count_distinct(head).as_py() > most:
        return False
    if (pc.mean(pc.binary_length(head)).as_py() or 0) > LONGEST_CATEGORY:
        return False
    distinct = pc.count_distinct(values).as_py()
    return distinct <= most and 2 * distinct <= rows


def _infer_binary(values: pa.ChunkedArray) -> str:
    first = next(value for chunk in values.chunks for value in chunk if value.is_valid).as_py()
    if first[:4] == b"RIFF" and first[8:12] == b"WAVE":
        return "audio"
    return "image"


def convert(name: str, values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """`values` in the canonical Arrow type of `kind`; raise InvalidInput that shows the first value that cannot be one."""
    try:
        return _convert(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        row = _first_bad(values, kind)
        place = f" in row {row + 1}" if row is not None else ""
        received = values[row].as_py() if row is not None else str(values.type)
        raise InvalidInput(
            f"column {name!r} has a value that is not of type {kind}{place}", received=received,
            fix=f"Correct the value, or choose another type: --type {name}=text.",
        ) from error  # fmt: skip


def _convert(values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    storage = values.type
    if kind in ("category", "text"):
        if storage == pa.string():
            return values
        return values.cast(pa.string()) if not pa.types.is_nested(storage) else _json_text(values)
    if kind == "number":
        if storage in (pa.float32(), pa.float64()):
            return values
        if storage == pa.float16():
            return values.cast(pa.float32())
        if pa.types.is_duration(storage):
            return pc.divide(values.cast(pa.duration("ns")).cast(pa.int64()).cast(pa.float64(), safe=False), 1e9)
        if pa.types.is_temporal(storage):
            raise pa.ArrowTypeError("a time is not a number")
        return (pc.utf8_trim_whitespace(values) if _is_string(storage) else values).cast(
            pa.float64(), safe=not pa.types.is_integer(storage)
        )
    if kind == "integer":
        return (pc.utf8_trim_whitespace(values) if _is_string(storage) else values).cast(pa.int64())
    if kind == "boolean":
        if pa.types.is_boolean(storage) or _is_string(storage):
            return values.cast(pa.bool_())
        numbers = values.cast(pa.float64())
        if not pc.all(pc.or_(pc.equal(numbers, 0), pc.equal(numbers, 1))).as_py():
            raise pa.ArrowInvalid("neither 0 nor 1")
        return pc.equal(numbers, 1)
    if kind == "timestamp":
        if pa.types.is_timestamp(storage) and storage.tz:
            return values.cast(pa.timestamp("us", "UTC"), safe=False)
        if pa.types.is_integer(storage):
            raise pa.ArrowTypeError("whether these are seconds or days cannot be told")
        return values.cast(pa.timestamp("us"), safe=_is_string(storage))
    if kind in ("tensor", "image") and is_raw(storage):
        # Files may name the inner field as they like; ours is always the same.
        return values.cast(pa.list_(storage.value_type, storage.list_size))
    if kind in ("image", "audio") and _is_binary(storage):
        return values if storage == pa.binary() else values.cast(pa.binary())
    raise pa.ArrowTypeError(f"{storage} cannot be {kind}")


def _first_bad(values: pa.ChunkedArray, kind: str) -> int | None:
    """The first row that fails alone, found by halving; None if every row fails for the type's own reason."""
    low, high = 0, len(values)
    if pa.types.is_nested(values.type):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _convert(values.slice(low, middle - low), kind)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            high = middle
    return low if high > low else None


def known_parts(column: Column, values: pa.ChunkedArray) -> tuple[Column, pa.ChunkedArray]:
    """A column `split` in our words (`val` → `validation`), if it holds nothing but names of parts."""
    if not _is_string(values.type):
        return column, values
    distinct = pc.unique(values).to_pylist()
    if not all(value is None or value.lower() in PARTS for value in distinct):
        return column, values
    ours = [None if value is None else PARTS[value.lower()] for value in distinct]
    # A row that is in no part is for training.
    if ours != distinct or None in ours:
        values = pa.chunked_array(
            [
                pa.array([part or "train" for part in ours], pa.string()).take(
                    pc.index_in(values.combine_chunks(), pa.array(distinct, values.type))
                )
            ]
        )
    return Column(column.name, "text"), values


def known_part(name: str) -> str:
    """`val` → `validation`; raise InvalidInput for a name that is no part's."""
    if name.lower() not in PARTS:
        raise InvalidInput(
            "this does not name a part of a dataset", received=name, expected="train, validation or test"
        )
    return PARTS[name.lower()]


def _even_lists(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of numbers of one length as a fixed size list; anything else as JSON text."""
    lengths = pc.unique(pc.list_value_length(values)).drop_null()
    inner = values.type.value_type
    numeric = pa.types.is_integer(inner) or pa.types.is_floating(inner)
    if len(lengths) == 1 and numeric and lengths[0].as_py() > 0:
        return values.cast(pa.list_(inner, lengths[0].as_py()))
    return _json_text(values)


def _json_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = [
        None if value is None else json.dumps(value, default=str, ensure_ascii=False) for value in values.to_pylist()
    ]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _is_file(storage: pa.DataType) -> bool:
    """A file as Hugging Face datasets keeps images and audio: {bytes, path}."""
    return pa.types.is_struct(storage) and {field.name for field in storage} == {"bytes", "path"}


def _file_bytes(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    from pathlib import Path

    contents = []
    for value in values.to_pylist():
        if value is not None and value["bytes"] is None and value["path"]:
            try:
                contents.append(Path(value["path"]).read_bytes())
            except OSError as error:
                raise InvalidInput(f"a file of column {name!r} cannot be read", received=value["path"]) from error
        else:
            contents.append(value["bytes"] if value else None)
    return _chunked(contents)


def _chunked(contents: list[bytes | None]) -> pa.ChunkedArray:
    """Binary chunks that stay below the 2 GiB that 32-bit offsets reach."""
    array = pa.array(contents, pa.binary())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _is_binary(storage: pa.DataType) -> bool:
    return pa.types.is_binary(storage) or pa.types.is_large_binary(storage) or pa.types.is_fixed_size_binary(storage)


def _is_string(storage: pa.DataType) -> bool:
    return pa.types.is_string(storage) or pa.types.is_large_string(storage) or pa.types.is_string_view(storage)
