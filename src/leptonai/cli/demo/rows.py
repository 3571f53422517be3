"""The rows of the demo: the digits that scikit-learn carries, and rows as a client would send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def handwritten_digits() -> pa.Table:
    """scikit-learn's copy of the UCI optical digits: 0..16 per pixel, made 0..255 so that it is an image like any other."""
    import numpy as np
    import pyarrow as pa
    from sklearn.datasets import load_digits

    from ...data.fields import field_of, from_array
    from ...data.schema import Column

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    image = from_array(pixels)
    label = pa.array(digits.target.astype(np.int64))
    fields = [
        field_of(Column("image", "image", pixels.shape[1:]), image.type),
        field_of(Column("label", "category"), pa.string()),
    ]
    return pa.table([image, label.cast(pa.string())], schema=pa.schema(fields))


def request_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as a client would send them: pixels as nested lists, image files as base64."""
    import base64

    from ...data.fields import is_raw, schema_of, to_array
    from ...data.schema import SPLIT as SPLIT_COLUMN

    columns = {}
    for column in schema_of(table):
        values = table[column.name]
        if column.name == SPLIT_COLUMN:
            continue
        if is_raw(values.type):
            columns[column.name] = to_array(values, column.shape).tolist()
        else:
            columns[column.name] = [
                base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values.to_pylist()
            ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
