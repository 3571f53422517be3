"""CSV and TSV. pyarrow parses; when it will not, the file is read again slowly to say which line is wrong, and how."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ...base.errors import InvalidInput
from ..infer import check_names, check_types
from .sources import Source

STRINGS = ("category", "text")
NUMBERS = {"number": pa.float64()}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
DECIMAL_COMMA = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?\s*$"
# `pyarrow` infers a type from all rows, so only columns whose text must survive (a zip code's zeros) are told beforehand.


def read(source: Source, types: Mapping[str, str], encoding: str | None = None) -> pa.Table:
    """The table in `source`; empty fields and NA, NaN, null are missing values."""
    encoding = encoding or detect_encoding(source)
    raw, delimiter = _header(source, encoding)
    # pandas writes its index as a column without a name.
    header = [name.strip() or f"column_{place}" for place, name in enumerate(raw, 1)]
    check_names(header)
    _check_is_header(source, header, delimiter)
    types = check_types(types, header)
    kinds = dict.fromkeys(STRINGS, pa.string()) | NUMBERS
    forced = {raw[header.index(name)]: kinds[kind] for name, kind in types.items() if kind in kinds}
    try:
        table = _parse(source, encoding, delimiter, forced, newlines=False)
    except pa.ArrowInvalid as error:
        if "conversion error" in str(error):
            # A number column that is given holds something else: read it as text, and the conversion names the row.
            table = _parse(source, encoding, delimiter, dict.fromkeys(forced, pa.string()), newlines=True)
        else:
            try:
                table = _parse(source, encoding, delimiter, forced, newlines=True)
            except pa.ArrowInvalid:
                raise _explain(source, encoding, delimiter, header, str(error)) from error
    if any(pa.types.is_binary(field.type) for field in table.schema):
        raise _not_utf8(source)
    if table.num_rows == 0:
        raise InvalidInput(
            f"{source.name} has a header and no rows",
            received=", ".join(header),
            fix="Give a file with rows below the header.",
        )
    _check_last_quote(source, encoding, delimiter, table)
    table = _exact_integers(table, lambda columns: _parse(source, encoding, delimiter, columns, newlines=True), forced)
    table = table.rename_columns(header)
    # A separator at the end of every line makes a column without name and values.
    nothing = [name for name, given in zip(header, raw, strict=True) if not given.strip() and _is_empty(table[name])]
    table = table.drop_columns([name for name in nothing if name not in types])
    return decimal_commas(table, types) if delimiter == ";" else table


def _check_is_header(source: Source, header: list[str], delimiter: str) -> None:
    """Raise InvalidInput if the first line holds numbers: a row would be lost. `0,1,2,…` is how pandas names columns."""
    if header == [str(place) for place in range(len(header))]:
        return
    if all(NUMBER.fullmatch(name) for name in header):
        raise InvalidInput(
            f"the first line of {source.name} holds numbers, not names", received=delimiter.join(header),
            fix="Write the names of the columns as the first line.",
        )  # fmt: skip


def _check_last_quote(source: Source, encoding: str, delimiter: str, table: pa.Table) -> None:
    """Raise InvalidInput if a quote is never closed: the parser takes all that follows, to the file's end, as one field."""
    last = table.slice(table.num_rows - 1).to_pylist()[0].values()
    if not any(isinstance(value, str) and "\n" in value for value in last):
        return
    with source.open() as file, _text(file, encoding) as lines:
        begun, records = 1, csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for _ in records:
                begun = records.line_num + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise InvalidInput(
                    f"a quoted field that begins in line {begun} of {source.name} is never closed",
                    fix='Close it with a double quote; a double quote inside a field is written twice: "".',
                ) from error


def _exact_integers(table: pa.Table, parse: Callable, forced: Mapping[str, pa.DataType]) -> pa.Table:
    """Whole numbers past 64 bits, which are names and not quantities, as text: the parser would round them to float64."""
    large = [
        place
        for place, (field, column) in enumerate(zip(table.schema, table.columns, strict=True))
        if pa.types.is_floating(field.type) and field.name not in forced and _reaches(column, 2.0**63)
    ]
    if not large:
        return table
    texts = parse({**forced, **{table.field(place).name: pa.string() for place in large}})
    for place in large:
        values = texts.column(place)
        if pc.all(pc.match_substring_regex(values.drop_null(), r"^\s*[+-]?\d+\s*$")).as_py():
            table = table.set_column(place, table.field(place).name, values)
    return table


def _reaches(column: pa.ChunkedArray, bound: float) -> bool:
    ends = pc.min_max(column).as_py()
    return ends["min"] is not None and max(-ends["min"], ends["max"]) >= bound


def _is_empty(column: pa.ChunkedArray) -> bool:
    return column.null_count == len(column)


def _parse(source: Source, encoding: str, delimiter: str, types: dict[str, pa.DataType], newlines: bool) -> pa.Table:
    with source.native() as file:
        return pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(encoding=encoding, block_size=4 << 20),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=newlines),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )


def detect_encoding(source: Source) -> str:
    """By the byte order mark; UTF-8 without one. Other encodings cannot be told apart and must be given."""
    with source.open() as file:
        head = file.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and head not in (
        codecs.BOM_UTF32_LE,
        codecs.BOM_UTF32_BE,
    ):
        return "utf-16"
    return "utf-8"


def check_encoding(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError as error:
        raise InvalidInput(
            "this encoding is not known", received=encoding, expected="utf-8, utf-16, latin-1, cp1252, gb18030, …"
        ) from error


def _header(source: Source, encoding: str) -> tuple[list[str], str]:
    with source.open() as file, _text(file, encoding) as lines:
        try:
            first = lines.readline()
            # A quoted name may hold line breaks; the csv module needs the whole record.
            while first.count('"') % 2 and (more := lines.readline()):
                first += more
        except UnicodeDecodeError as error:
            raise _not_utf8(source, encoding) from error
    first = first.removeprefix("\ufeff")
    if not first.strip():
        raise InvalidInput(
            f"{source.name} is empty" if not first else f"{source.name} begins with an empty line",
            fix="Give a file whose first line names the columns.",
        )
    delimiter = "\t" if source.format == "tsv" else _delimiter(first)
    return next(csv.reader(io.StringIO(first), delimiter=delimiter)), delimiter


def _delimiter(first: str) -> str:
    """A comma, unless the first line has none and has another usual separator."""
    bare = "".join(first.split('"')[::2])
    if "," in bare:
        return ","
    return next((mark for mark in (";", "\t", "|") if mark in bare), ",")


def _text(file, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding=encoding, newline=None)


def _explain(source: Source, encoding: str, delimiter: str, header: list[str], message: str) -> InvalidInput:
    """The first line with too few or too many fields."""
    try:
        with source.open() as file, _text(file, encoding) as lines:
            records = csv.reader(lines, delimiter=delimiter)
            for record in records:
                if record and len(record) != len(header):
                    return InvalidInput(
                        f"line {records.line_num} of {source.name} has {len(record)} field{'s' * (len(record) != 1)}",
                        received=delimiter.join(record), expected=f"{len(header)}, as in the header",
                        fix="Correct the line; a field that holds the separator must be in double quotes.",
                    )  # fmt: skip
    except UnicodeDecodeError:
        return _not_utf8(source, encoding)
    except csv.Error as error:
        message = str(error)
    return InvalidInput(
        f"{source.name} cannot be read as {source.format.upper()}", received=message, fix="Correct the file."
    )


def _not_utf8(source: Source, encoding: str = "utf-8") -> InvalidInput:
    """Where the first byte is that is not `encoding`."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset = 1, 0
    with source.open() as file:
        while block := file.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                bad = offset - pending + error.start
                with suppress(IndexError):
                    line += block[: max(error.start - pending, 0)].count(b"\n")
                    return InvalidInput(
                        f"{source.name} is not {encoding.upper()}: byte 0x{error.object[error.start]:02x} in line {line} (offset {bad})",
                        fix="Say how it is encoded, for example --encoding latin-1 or --encoding cp1252, or save it as UTF-8.",
                    )
            line += block.count(b"\n")
            offset += len(block)
    return InvalidInput(f"{source.name} is not {encoding.upper()}", fix="Say how it is encoded: --encoding latin-1.")


def tidy_quoted_numbers(table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Columns of quoted numbers with quoted empty fields (`"1",""`) as numbers: a quoted empty field is text to the parser."""
    for position, field in enumerate(table.schema):
        if not pa.types.is_string(field.type) or field.name in types:
            continue
        column = table.column(position)
        if not pc.any(pc.equal(column.slice(0, 10_000), "")).as_py():
            continue
        bare = pc.if_else(pc.equal(column, ""), None, column)
        with suppress(pa.ArrowInvalid):
            table = table.set_column(position, field.name, bare.cast(pa.float64()))
    return table


def decimal_commas(table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Columns of numbers such as `1.234,5`, as files with semicolons write them, as numbers."""
    for position, field in enumerate(table.schema):
        if not pa.types.is_string(field.type) or types.get(field.name, "number") != "number":
            continue
        column = table.column(position)
        given = column.drop_null()
        if not len(given) or not pc.all(pc.match_substring_regex(given.slice(0, 100), DECIMAL_COMMA)).as_py():
            continue
        if pc.all(pc.match_substring_regex(given, DECIMAL_COMMA)).as_py():
            plain = pc.replace_substring(pc.replace_substring(column, ".", ""), ",", ".")
            table = table.set_column(position, field.name, pc.utf8_trim_whitespace(plain).cast(pa.float64()))
    return table
