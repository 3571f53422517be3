"""One value of a JSON request in the type of a dataset's column. The model has read the value already; here it keeps its meaning."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..base.errors import LeptonError, shorten

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.schema import Column


class Unusable(Exception):
    """The column cannot hold this value; the message says which and why."""


def arrow_values(field: pa.Field, value: Any) -> Any:
    """What `pa.array(…, field.type)` takes for a request's value. Raises Unusable."""
    from ..data.fields import column_of

    if value is None:
        return None
    column = column_of(field)
    if column is None:  # not typed by Lepton
        return value
    try:
        return _READ[column.type](value, column, field)
    except (LeptonError, ValueError, TypeError, OverflowError) as error:
        raise Unusable(
            f"column {field.name!r} ({column.type}) cannot hold {shorten(repr(value), 40)} ({error})"
        ) from None


def storage_of(column: Column) -> pa.DataType:
    """The Arrow type of a column that no dataset has told."""
    import math

    import pyarrow as pa

    if column.type == "image":
        return pa.list_(pa.uint8(), math.prod(column.shape)) if column.shape else pa.binary()
    if column.type == "tensor":
        return pa.list_(pa.float32(), math.prod(column.shape or (1,)))
    return {
        "number": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "category": pa.string(),
        "text": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "audio": pa.binary(),
    }[column.type]


def _number(value: Any, column: Column, field: pa.Field) -> float:
    if isinstance(value, str):
        raise ValueError("text")
    return float(value)


def _integer(value: Any, column: Column, field: pa.Field) -> int:
    if isinstance(value, str) or int(value) != value or not -(2**63) <= value < 2**63:
        raise ValueError("no 64-bit whole number")
    return int(value)


def _boolean(value: Any, column: Column, field: pa.Field) -> bool:
    if value not in (0, 1):
        raise ValueError("neither true nor false")
    return bool(value)


def _text(value: Any, column: Column, field: pa.Field) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        raise ValueError("no text")
    return str(value)


def _timestamp(value: Any, column: Column, field: pa.Field) -> datetime:
    when = datetime.fromisoformat(value.strip())
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return aware if field.type.tz else aware.astimezone(UTC).replace(tzinfo=None)


def _image(value: Any, column: Column, field: pa.Field) -> Any:
    """Pixels for a column of pixels; the file as it was sent for a column of files."""
    import numpy as np

    from ..data.fields import is_raw
    from ..tasks.images import png_base64, read_image, read_pixels

    if is_raw(field.type):
        shape = column.shape if len(column.shape or ()) == 3 else (*column.shape, 1)
        return read_image(value, shape, "the picture").reshape(-1)
    if isinstance(value, list):
        pixels = np.asarray(value)
        value = png_base64(read_pixels(value, pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1), "the picture"))
    return _file(value, column, field)


def _file(value: Any, column: Column, field: pa.Field) -> bytes:
    text = value.partition(",")[2] if value.startswith("data:") else value
    return base64.b64decode("".join(text.split()), validate=True)


def _tensor(value: Any, column: Column, field: pa.Field) -> Any:
    import numpy as np

    return np.asarray(value, field.type.value_type.to_pandas_dtype()).reshape(-1)


_READ = {
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "category": _text,
    "text": _text,
    "timestamp": _timestamp,
    "image": _image,
    "audio": _file,
    "tensor": _tensor,
}
