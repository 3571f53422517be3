"""JSON lines, JSON arrays and plain text. A text file gives one row per line that is not blank, in the column `text`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pyarrow as pa

from ...base.errors import InvalidInput
from .delimited import _not_utf8, detect_encoding
from .sources import Source


def read_jsonl(source: Source, encoding: str | None = None) -> pa.Table:
    """One object a line. Not by pyarrow.json: release 26 ends the process at a line that is `null`."""
    with source.open() as file:
        content = _utf8(source, file.read(), encoding)
    try:
        records = msgspec.json.Decoder(dict[str, Any]).decode_lines(content)
    except msgspec.DecodeError:
        records = _slow_lines(source, content)
    return _records_table(source, records)


def _slow_lines(source: Source, content: bytes) -> list[dict[str, Any]]:
    """Line by line: the way to say which line is wrong."""
    records = []
    for number, line in enumerate(content.decode().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(
                f"line {number} of {source.name} is not JSON ({error.msg}, column {error.colno})", received=line,
                fix="Correct the line: each line is one JSON object.",
            ) from error  # fmt: skip
        if not isinstance(record, dict):
            raise InvalidInput(
                f"line {number} of {source.name} is not a JSON object", received=line, expected='{"column": value, …}'
            )
        records.append(record)
    return records


def read_json(source: Source, encoding: str | None = None) -> pa.Table:
    """A JSON array of objects, or an object of columns."""
    with source.open() as file:
        content = _utf8(source, file.read(), encoding)
    try:
        value = json.loads(content.decode())
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _records_table(source, _slow_lines(source, content))
        raise InvalidInput(
            f"{source.name} is not JSON ({error.msg}, line {error.lineno}, column {error.colno})",
            fix="Correct the file.",
        ) from error
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        lengths = {name: len(part) for name, part in value.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"the columns of {source.name} have unequal lengths", received=lengths)
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise InvalidInput(
            f"{source.name} is not a table",
            expected="a JSON array of objects",
            fix='Write it as [{"column": value, …}, …].',
        )
    return _records_table(source, value)


def _records_table(source: Source, records: list[dict[str, Any]]) -> pa.Table:
    if not records:
        raise InvalidInput(f"{source.name} has no rows in it", fix="Give a file with at least one record.")
    names = list(dict.fromkeys(name for record in records for name in record))
    arrays = []
    for name in names:
        values = [record.get(name) for record in records]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            if all(value is None or type(value) in (int, float) for value in values):
                # Whole numbers past 64 bits, as JSON may hold them.
                arrays.append(pa.array([None if value is None else float(value) for value in values], pa.float64()))
                continue
            row = _odd_one(values)
            raise InvalidInput(
                f"column {name!r} of {source.name} mixes types: record {row + 1} is {type(values[row]).__name__}",
                received=values[row], fix="Make all its values of one type.",
            ) from error  # fmt: skip
    return pa.Table.from_arrays(
        [a if isinstance(a, pa.ChunkedArray) else pa.chunked_array([a]) for a in arrays], names=names
    )


def _odd_one(values: list[Any]) -> int:
    """The first value whose type is not that of the first value that is there."""
    first = next((type(value) for value in values if value is not None), type(None))
    return next((i for i, value in enumerate(values) if value is not None and type(value) is not first), 0)


def read_text(source: Source, encoding: str | None = None) -> pa.Table:
    with source.open() as file:
        content = _utf8(source, file.read(), encoding)
    lines = [line for line in content.decode().splitlines() if line.strip()]
    if not lines:
        raise InvalidInput(f"{source.name} has no text in it", fix="Give a file with at least one line of text.")
    array = pa.array(lines, pa.string())
    return pa.table({"text": array})


def _utf8(source: Source, content: bytes, encoding: str | None) -> bytes:
    encoding = encoding or detect_encoding(source)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_utf8(source, encoding) from error
    return text.removeprefix("\ufeff").encode()
