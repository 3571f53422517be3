"""From a source to the first, or the next, version of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.home import Home
from . import readers
from .dataset import Dataset
from .fields import column_of, field_of, is_raw
from .images import common_shape
from .infer import check_types, typed
from .schema import Column
from .versions import put

Progress = Callable[[str, int, int], None]


def quiet(stage: str, done: int, total: int) -> None:
    """The progress of who does not ask for it."""


def import_data(
    name: str, source: Any, *, types: Mapping[str, str] | None = None, description: str = "", home: Home | None = None,
    encoding: str | None = None, progress: Progress = quiet,
) -> Dataset:  # fmt: skip
    """Import `source` (path, DataFrame, Arrow table, Hugging Face Dataset, dict of columns) as a version of dataset `name`.

    The version that already has this content is returned if there is one. Raises InvalidInput, NotFound, Refused, Corrupt or
    DiskFull; then nothing is stored.
    """
    from .store import Store

    home = home or Home.current()
    store = Store(name, home)
    table = read_source(source, types, encoding=encoding, progress=progress)
    lineage = {"kind": "import", "source": describe(source)}
    return put(store, table, description=description, lineage=lineage, progress=progress)


def read_source(
    source: Any, types: Mapping[str, str] | None = None, *, encoding: str | None = None, progress: Progress = quiet
) -> pa.Table:
    """The typed table of `source`, not stored. Every encoded image in it decodes."""
    progress("reading", 0, 1)
    types = dict(types or {})
    table = readers.read(source, types, encoding, progress)
    check_types(types, table.column_names)
    return check_images(typed(table, types), progress)


def check_images(table: pa.Table, progress: Progress = quiet) -> pa.Table:
    """Give encoded image columns the shape that all their images share; raise InvalidInput for one that does not decode."""
    for position, field in enumerate(table.schema):
        column = column_of(field)
        if column.type != "image" or is_raw(field.type):
            continue
        names = table.column("file") if "file" in table.column_names else None

        def name_of(row: int, names=names, column: Column = column) -> str:
            return names[row].as_py() if names is not None else f"row {row + 1} of column {column.name!r}"

        shape = common_shape(table.column(position), name_of, progress)
        table = table.set_column(
            position, field_of(Column(column.name, "image", shape), field.type), table.column(position)
        )
    return table


def describe(source: Any) -> str:
    """What lineage calls a source: its absolute path, or its Python type."""
    if isinstance(source, str | os.PathLike):
        return str(Path(source).expanduser().resolve())
    return f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
