"""Rows from elsewhere (feedback) in the columns and types of a dataset: what is missing is null, what does not fit is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..base.errors import InvalidInput, did_you_mean
from .fields import column_of, from_array, is_raw, to_array
from .images import decode, encode, shape_of
from .infer import convert, known_parts
from .readers.objects import read_object
from .schema import SPLIT, Column, Schema

if TYPE_CHECKING:
    from .dataset import Dataset


def coerce(source: Any, dataset: Dataset) -> tuple[pa.Table, Schema]:
    """The rows of `source` with exactly the dataset's columns, and the schema of old and new rows together."""
    given = read_object(source)
    for name in given.column_names:
        if name not in dataset.schema:
            raise InvalidInput(
                f"the rows have a column that {dataset.ref} has not",
                received=name,
                fix=did_you_mean(name, dataset.schema.names),
            )
    if dataset.num_rows and not given.column_names:
        raise InvalidInput("the rows have no columns", expected=", ".join(dataset.schema.names))
    kept = dataset.head(1).schema
    arrays, columns = [], []
    for field in kept:
        column = dataset.schema[field.name]
        if column.name in given.column_names:
            column, values = _fit(column, field.type, given.column(column.name), given.schema.field(column.name))
        else:
            values = pa.chunked_array([pa.nulls(given.num_rows, field.type)])
        if column.name == SPLIT:
            values = known_parts(column, values)[1].fill_null("train")
        arrays.append(values)
        columns.append(column)
    # Lance compares field metadata too, so the fields are those that are stored.
    return pa.Table.from_arrays(arrays, schema=dataset.stored_schema(kept)), Schema(tuple(columns))


def _fit(
    column: Column, storage: pa.DataType, values: pa.ChunkedArray, field: pa.Field
) -> tuple[Column, pa.ChunkedArray]:
    if values.null_count == len(values):
        return column, pa.chunked_array([pa.nulls(len(values), storage)])
    if column.type == "image":
        return _fit_images(column, storage, values, field)
    if column.type == "tensor":
        return column, _fit_tensors(column, storage, values)
    converted = convert(column.name, values, column.type)
    return column, converted if converted.type == storage else converted.cast(storage)


def _fit_images(
    column: Column, storage: pa.DataType, values: pa.ChunkedArray, field: pa.Field
) -> tuple[Column, pa.ChunkedArray]:
    """Raw images stay raw and files stay files: those of the other kind are decoded, or encoded as PNG."""
    rows = _image_rows(column, values, field)
    for row, image in enumerate(rows):
        shape = (
            image.shape
            if isinstance(image, np.ndarray)
            else image and shape_of(image, f"row {row + 1} of column {column.name!r}")
        )
        if is_raw(storage) and shape and shape[:2] != column.shape[:2]:
            raise InvalidInput(
                f"row {row + 1} of column {column.name!r} is an image of another size", received=f"{shape[0]} × {shape[1]}",
                expected=f"{column.shape[0]} × {column.shape[1]}", fix="Resize it to the size that the dataset has.",
            )  # fmt: skip
        if (
            not is_raw(storage)
            and shape
            and column.shape
            and (shape[:2] != column.shape[:2] or shape[2] > column.shape[2])
        ):
            # Files may differ; the version then has no one shape.
            same_size = shape[:2] == column.shape[:2]
            column = Column(column.name, "image", (*column.shape[:2], 3) if same_size else None)
    if not is_raw(storage):
        contents = [encode(image) if isinstance(image, np.ndarray) else image for image in rows]
        return column, pa.chunked_array([pa.array(contents, storage)])
    channels = column.shape[2]
    arrays = [np.zeros(column.shape, np.uint8) if image is None else _channels(image, channels) for image in rows]
    array = from_array(np.stack(arrays))
    mask = pa.array([image is None for image in rows])
    return column, pa.chunked_array([pa.FixedSizeListArray.from_arrays(array.values, type=storage, mask=mask)])


def _channels(image: np.ndarray | bytes, channels: int) -> np.ndarray:
    return decode(encode(image) if isinstance(image, np.ndarray) else image, channels)


def _image_rows(column: Column, values: pa.ChunkedArray, field: pa.Field) -> list[np.ndarray | bytes | None]:
    """Each image as bytes of a file, or as a uint8 array (H, W, C)."""
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return values.to_pylist()
    given = column_of(field)
    shape = (given.shape if given else None) or column.shape
    if is_raw(values.type) and shape and values.type.list_size == int(np.prod(shape)):
        missing = values.is_null().to_pylist()
        return [
            None if gone else image
            for gone, image in zip(missing, to_array(values, shape).astype(np.uint8), strict=True)
        ]
    rows = [None if value is None else np.asarray(value) for value in values.to_pylist()]
    for row, image in enumerate(rows):
        if image is None:
            continue
        if image.dtype.kind not in "iuf" or (image.size and not (image.min() >= 0 and image.max() <= 255)):
            raise InvalidInput(
                f"row {row + 1} of column {column.name!r} is not an image",
                received=image.tolist(),
                expected="numbers from 0 to 255, or an image file's bytes",
            )
        if image.ndim == 1 and column.shape and image.size == int(np.prod(column.shape)):
            image = image.reshape(column.shape)
        image = image[:, :, None] if image.ndim == 2 else image
        if image.ndim != 3 or image.shape[2] not in (1, 3):
            raise InvalidInput(
                f"row {row + 1} of column {column.name!r} is not an image",
                received=f"shape {image.shape}",
                expected="height, width, and 1 or 3 channels",
            )
        rows[row] = image.astype(np.uint8)
    return rows


def _fit_tensors(column: Column, storage: pa.DataType, values: pa.ChunkedArray) -> pa.ChunkedArray:
    rows = []
    for row, value in enumerate(values.to_pylist()):
        flat = None if value is None else np.asarray(value, dtype=storage.value_type.to_pandas_dtype()).reshape(-1)
        if flat is not None and flat.size != storage.list_size:
            raise InvalidInput(
                f"row {row + 1} of column {column.name!r} has another shape",
                received=f"{flat.size} numbers",
                expected=f"shape {column.shape}",
            )
        rows.append(flat)
    return pa.chunked_array([pa.array(rows, storage)])
