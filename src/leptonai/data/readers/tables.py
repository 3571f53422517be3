"""Parquet, Arrow (IPC file, stream, Feather) and npz: formats that carry their types."""

from __future__ import annotations

import io
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from ...base.errors import Corrupt, InvalidInput, LeptonError
from ..infer import PARTS
from ..schema import SPLIT
from .idx import array_column
from .sources import Source, refused_pickle


def read_parquet(source: Source) -> pa.Table:
    try:
        with source.native() as file:
            return pyarrow.parquet.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(source, "Parquet", error) from error


def read_arrow(source: Source) -> pa.Table:
    with source.open() as file:
        content = file.read()
    try:
        if content[:6] == b"ARROW1" or content[:4] == b"FEA1":
            return pyarrow.feather.read_table(io.BytesIO(content))
        return pa.ipc.open_stream(content).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(source, "Arrow", error) from error


def _damaged(source: Source, kind: str, error: Exception) -> LeptonError:
    if isinstance(error, OSError) and error.errno:
        return InvalidInput(f"{source.name} cannot be read ({error.strerror})")
    return Corrupt(
        f"{source.name} is not a whole {kind} file",
        received=str(error).split(". ")[0],
        fix="Write or download it again.",
    )


def read_npz(source: Source) -> pa.Table:
    """Arrays of one length as columns. `train_images`, `x_train`, … are parts: their columns are joined under `split`."""
    import numpy as np

    arrays = {}
    with source.open() as file:
        try:
            with np.load(io.BytesIO(file.read()), allow_pickle=False) as archive:
                for name in archive.files:
                    arrays[name] = archive[name]
        except ValueError as error:
            if "pickle" in str(error):
                raise refused_pickle(source.name) from error
            raise _damaged(source, "npz", error) from error
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise _damaged(source, "npz", error) from error
    parts: dict[str, dict] = {}
    for name, values in arrays.items():
        part, column = _part(name)
        parts.setdefault(part, {})[column] = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    tables = [_columns(source, part, columns, len(parts) > 1) for part, columns in parts.items()]
    if not tables or any(table.schema != tables[0].schema for table in tables):
        raise InvalidInput(f"the arrays of {source.name} are not the columns of one table", received=list(arrays))
    return pa.concat_tables(tables)


def _part(name: str) -> tuple[str, str]:
    """`train_images` → (train, image), `y_test` → (test, label), `age` → ("", age)."""
    words = name.split("_")
    found = [word for word in words if word.lower() in PARTS]
    if len(words) == 1 or len(found) != 1:
        return "", name
    column = "_".join(word for word in words if word != found[0])
    return PARTS[found[0].lower()], {"images": "image", "labels": "label", "x": "image", "y": "label"}.get(
        column, column
    )


def _columns(source: Source, part: str, columns: dict, has_parts: bool) -> pa.Table:
    lengths = {name: values.shape[0] if values.ndim else -1 for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        raise InvalidInput(
            f"the arrays of {source.name} have unequal lengths",
            received=lengths,
            expected="one length, the number of rows",
        )
    fields, arrays = zip(*(array_column(name, values) for name, values in columns.items()), strict=True)
    table = pa.Table.from_arrays(list(arrays), schema=pa.schema(fields))
    return table.append_column(SPLIT, pa.array([part] * table.num_rows, pa.string())) if has_parts else table
