"""CSV and TSV. pyarrow parses; when it will not, the file is read again slowly to say which line is wrong, and how."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Mapping
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ...base.errors import InvalidInput
from ..infer import check_names, check_types
from .sources import Source

STRINGS = ("category", "text")
NUMBERS = {"number": pa.float64()}
# `pyarrow` infers a type from all rows, so only columns whose text must survive (a zip code's zeros) are told beforehand.


def read(source: Source, types: Mapping[str, str], encoding: str | None = None) -> pa.Table:
    """The table in `source`; empty fields and NA, NaN, null are missing values."""
    encoding = encoding or detect_encoding(source)
    raw, delimiter = _header(source, encoding)
    # pandas writes its index as a column without a name.
    header = [name if name.strip() else f"column_{place}" for place, name in enumerate(raw, 1)]
    check_names(header)
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
    return table.rename_columns(header)


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
