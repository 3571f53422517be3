"""One way to read a column, whatever holds it: memory-mapped arrays and Ragged of a dataset, arrays and lists of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def count_rows(columns: Mapping[str, Any], names: Sequence[str]) -> int:
    return len(columns[names[0]])


def all_rows(column: Any, rows: np.ndarray | None) -> np.ndarray:
    return np.arange(len(column)) if rows is None else np.asarray(rows)


def strings(column: Any, rows: np.ndarray | None = None) -> list[str | None]:
    """Values of a category or text column; None where there is none. Numbers become their shortest text (3.0 → "3")."""
    if hasattr(column, "strings"):
        return column.strings(all_rows(column, rows))
    if isinstance(column, np.ndarray) and column.dtype.kind in "iufb":
        values = column if rows is None else column[rows]
        return [None if value != value else number_text(value) for value in values.tolist()]
    values = column if rows is None else [column[row] for row in rows]
    return [None if value is None or value != value else str(value) for value in values]


def number_text(value: float | int | bool) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def floats(column: Any, rows: np.ndarray | None = None) -> np.ndarray:
    """Values of a number, integer or boolean column as float64 (n,); NaN where there is none or it is infinite."""
    if hasattr(column, "strings"):
        values = np.array(
            [np.nan if v is None else _float(v) for v in column.strings(all_rows(column, rows))], np.float64
        )
    else:
        values = np.asarray(column if rows is None else np.asarray(column)[rows])
        if values.dtype == object:
            values = np.array([np.nan if v is None else v for v in values], np.float64)
        values = values.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def seconds(column: Any, rows: np.ndarray | None = None) -> np.ndarray:
    """Values of a timestamp column as seconds since 1970 (UTC), float64 (n,); NaN where there is none."""
    values = np.asarray(column) if rows is None else np.asarray(column)[rows]
    if values.dtype.kind == "M":
        whole = values.astype("datetime64[us]").astype(np.int64)
        return np.where(np.isnat(values), np.nan, whole / 1e6)
    return floats(values)
