"""What people pass to an estimator: Series, frames, lists, arrays, tensors. Read once into float64, with every fault named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.errors import InvalidInput, did_you_mean
from ..data.schema import Column
from .tabular import Feature, TableEncoder


@dataclass(frozen=True)
class Frame:
    """`values` (n, features) float64 without NaN; `types` are column types. `described` keeps all but the values."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: int
    values: np.ndarray
    means: np.ndarray
    features: tuple[Feature, ...] = ()

    def described(self) -> Frame:
        columns = zip(self.names, self.types, self.values.T, strict=True)
        return replace(self, features=tuple(_feature(*column) for column in columns), values=self.values[:0])

    def encoder(self) -> TableEncoder:
        return TableEncoder(self.features, self.means.tolist(), [1.0] * len(self.means))


def read_features(X: Any, like: Frame | None = None) -> Frame:
    """A Frame of `X`; with `like`, its columns in that order. Raises InvalidInput that says which column and what to do."""
    names, columns, named = _columns(X)
    if like is not None:
        names, columns = _as_fitted(names, columns, named, like)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput("two columns have the same name", received=twice, fix="Rename one of them.")
    numbers = [_numbers(column, name) for name, column in zip(names, columns, strict=True)]
    rows = len(numbers[0]) if numbers else 0
    if not rows:
        raise InvalidInput(
            "there is nothing to learn from or to predict", received=f"{rows} rows of {len(names)} columns"
        )
    types = tuple({"b": "boolean", "i": "integer", "u": "integer"}.get(_kind(column), "number") for column in columns)
    values = np.stack(numbers, axis=1)
    return Frame(tuple(names), types, rows, values, values.mean(0))


def read_values(y: Any, rows: int) -> tuple[np.ndarray, str]:
    """The target as n finite numbers, and its name."""
    column, name = _one_column(y, rows)
    return _numbers(column, name), name


def read_labels(y: Any, rows: int) -> tuple[np.ndarray, str]:
    """The target as n labels, and its name."""
    column, name = _one_column(y, rows)
    found = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
    missing = np.array([value is None or value != value or str(value) == "<NA>" for value in found.tolist()])
    if missing.any():
        raise _missing(name, missing, "a label in every row")
    if found.dtype.kind not in "biu":
        found = np.array(found.tolist())
        if found.dtype.kind == "f" and (found == np.round(found)).all():
            found = found.astype(np.int64)
    if found.dtype.kind == "f":
        raise InvalidInput(
            f"the target {name!r} holds fractions, not labels", received=float(found[0]), fix="Use la.LinearRegression."
        )
    if len(np.unique(found)) < 2:
        raise InvalidInput(
            f"the target {name!r} has only one class", received=found[0].item(), expected="at least two classes"
        )
    return found, name


def _columns(X: Any) -> tuple[list[str], list[Any], bool]:
    """Names and columns of `X`, and whether the names are the user's."""
    if hasattr(X, "column_names") and hasattr(X, "to_pandas"):  # an Arrow table
        return list(X.column_names), [column.to_numpy() for column in X.columns], True
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        return [str(name) for name in X.columns], [X.iloc[:, position] for position in range(X.shape[1])], True
    if hasattr(X, "iloc"):
        return [str(X.name) if X.name is not None else "x0"], [X], False
    if isinstance(X, dict):
        return [str(name) for name in X], list(X.values()), True
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise InvalidInput("the rows have unequal lengths", received=X, expected="a table of numbers") from error
    if array.ndim not in (1, 2):
        raise InvalidInput(
            "features must be one column or a table",
            received=f"{type(X).__name__} of shape {array.shape}",
            expected="shape (n,) or (n, features)",
        )
    array = array[:, None] if array.ndim == 1 else array
    return [f"x{number}" for number in range(array.shape[1])], list(array.T), False


def _as_fitted(names: list[str], columns: list[Any], named: bool, like: Frame) -> tuple[list[str], list[Any]]:
    if named:
        for name in like.names:
            if name not in names:
                raise InvalidInput(f"there is no column {name!r}", received=names, fix=did_you_mean(name, names))
        return list(like.names), [columns[names.index(name)] for name in like.names]
    if len(columns) != len(like.names):
        raise InvalidInput(
            "this has another number of columns than the model was fitted on",
            received=len(columns),
            expected=f"{len(like.names)}: {', '.join(like.names)}",
            fix="Write one row as [[value, value]]." if len(columns) == 1 else None,
        )
    return list(like.names), columns


def _one_column(y: Any, rows: int) -> tuple[Any, str]:
    names, columns, named = _columns(y)
    if len(columns) != 1:
        raise InvalidInput("the target must be one column", received=f"{len(columns)} columns", expected="n values")
    name = names[0] if named or (hasattr(y, "name") and y.name is not None) else "target"
    if len(columns[0]) != rows:
        raise InvalidInput(
            "features and target must have the same length", received=f"{rows} and {len(columns[0])} rows"
        )
    return columns[0], name


def _kind(column: Any) -> str:
    dtype = getattr(column, "dtype", None)
    return getattr(dtype, "kind", "f")


def _numbers(column: Any, name: str) -> np.ndarray:
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if hasattr(column, "to_numpy") else None
        values = np.array(column, dtype=np.float64) if values is None else values
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"column {name!r} does not hold numbers",
            received=next((value for value in column if not _is_number(value)), None),
            expected="numbers",
            fix="Leave it out, or use la.fit(data, target=…), which reads categories and dates too.",
        ) from error
    if _kind(column) == "M":
        raise InvalidInput(f"column {name!r} holds dates", expected="numbers", fix="Use la.fit(data, target=…).")
    missing = ~np.isfinite(values)
    if missing.any():
        raise _missing(name, missing, "a finite number in every row")
    return values


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _missing(name: str, missing: np.ndarray, expected: str) -> InvalidInput:
    first: Sequence[int] = np.flatnonzero(missing)[:5].tolist()
    count = int(missing.sum())
    return InvalidInput(
        f"column {name!r} is missing or not finite in {count} of {len(missing)} rows, the first: {', '.join(map(str, first))}",
        expected=expected,
        fix="Drop these rows with data.dropna(), or fill them in.",
    )


def _feature(name: str, kind: str, values: np.ndarray) -> Feature:
    middle = float(np.median(values))
    whole = kind == "integer" or bool((values == np.round(values)).all())
    example = bool(middle) if kind == "boolean" else round(middle) if whole else float(f"{middle:.4g}")
    return Feature(Column(name, kind), "number", example, low=float(values.min()), high=float(values.max()))
