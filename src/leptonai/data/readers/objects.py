"""What Python already holds: pandas DataFrames, Arrow tables, Hugging Face datasets, and dicts of arrays or lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...base.errors import InvalidInput
from ..fields import TYPE_KEY
from ..infer import check_names, known_part
from ..schema import SPLIT
from .idx import array_column


def read_object(source: Any) -> pa.Table:
    """The Arrow table of `source`; raise InvalidInput that names what is accepted for anything else."""
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    kind = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
    if kind == "pandas.DataFrame":
        return _from_pandas(source)
    if kind == "datasets.DatasetDict":
        return join_parts({part: _from_hub(part_source) for part, part_source in source.items()})
    if kind == "datasets.Dataset":
        return _from_hub(source)
    if isinstance(source, Mapping):
        return _from_mapping(source)
    raise InvalidInput(
        "this cannot be read as a table", received=type(source).__name__,
        expected="a path, pandas DataFrame, Arrow table, Hugging Face Dataset or dict of columns",
    )  # fmt: skip


def _from_pandas(frame) -> pa.Table:
    names = [str(name) if not isinstance(name, tuple) else ".".join(map(str, name)) for name in frame.columns]
    check_names(names)
    columns = []
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        try:
            column = pa.Array.from_pandas(series)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InvalidInput(
                f"column {name!r} mixes types or holds objects that are not data", received=series.map(type).value_counts().index[-1].__name__,
                fix=f"Convert it first, for example: frame[{name!r}] = frame[{name!r}].astype(str).",
            ) from error  # fmt: skip
        columns.append(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))
    return pa.Table.from_arrays(columns, names=names)


def _from_mapping(source: Mapping[str, Any]) -> pa.Table:
    import numpy as np

    fields, arrays = [], []
    for name, values in source.items():
        if isinstance(values, pa.Array | pa.ChunkedArray):
            field, array = pa.field(name, values.type), values
        elif isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.ndim:
            field, array = array_column(str(name), values)
        else:
            try:
                array = pa.array(values, from_pandas=True)
            except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
                raise InvalidInput(
                    f"column {name!r} cannot be read as a column",
                    received=values,
                    expected="a list or array of one type",
                ) from error
            field = pa.field(str(name), array.type)
        fields.append(field)
        arrays.append(array)
    lengths = {field.name: len(array) for field, array in zip(fields, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InvalidInput("the columns have unequal lengths", received=lengths)
    if not fields:
        raise InvalidInput("there are no columns in it", received="{}")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _from_hub(source) -> pa.Table:
    """A Hugging Face Dataset; class labels become the names of their classes."""
    table = source.with_format("arrow")[:]
    for position, (name, feature) in enumerate(source.features.items()):
        classes = getattr(feature, "names", None)
        if classes and pa.types.is_integer(table.schema.field(position).type):
            indices = table.column(position)
            # −1 is how datasets says that a label is not known.
            codes = pa.chunked_array(
                [pa.array([None if i is None or i < 0 else i for i in indices.to_pylist()], pa.int64())]
            )
            labels = pa.array(classes, pa.string()).take(codes.combine_chunks())
            table = table.set_column(position, pa.field(name, pa.string(), metadata={TYPE_KEY: b"category"}), labels)
    return table


def join_parts(tables: dict[str, pa.Table]) -> pa.Table:
    joined = []
    for part, table in tables.items():
        if table.num_rows == 0:
            continue
        column = pa.array([known_part(part)] * table.num_rows, pa.string())
        joined.append(table.append_column(SPLIT, column) if SPLIT not in table.column_names else table)
    if not joined:
        raise InvalidInput("there are no rows in it", fix="Give a source with at least one row of data.")
    try:
        return pa.concat_tables(joined, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput("the parts have different columns", received=str(error)) from error
