"""Preprocessing of a table, the same code in training, evaluation and serving: columns to numbers and category codes.

Numbers go out as they are (float64, NaN where missing): networks that need it fill in and standardise with their own buffers.
Category codes: 0 is missing, 1 a value that training did not know, 2… the known values. Timestamps become calendar numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from ..base.errors import InvalidInput, nearest, shorten
from ..data.schema import Column
from ..nets.registry import build, parameters
from .arrays import floats, seconds, strings

MISSING, UNKNOWN, KNOWN = 0, 1, 2
# Values beyond the most frequent ones are treated as unknown: an embedding of a value seen once or twice learns nothing.
MOST_VALUES = 1_000
# A category with more distinct values than this fraction of the rows names rows; it does not describe them.
ID_FRACTION = 0.5
CALENDAR = ("days", "year", "month", "day", "weekday", "hour", "season_sin", "season_cos")
DAY_S = 86_400.0


@dataclass(frozen=True)
class Feature:
    """An input column and what training rows said of it. `example` is made up (median, likeliest value), never a row's value."""

    column: Column
    kind: Literal["number", "category", "timestamp"]
    example: Any
    values: tuple[str, ...] = ()
    missing: bool = False
    """Training rows had missing values here."""
    low: float = 0.0
    high: float = 0.0


class TableEncoder:
    """`fit` once on training rows; then `encode` is a pure function of the columns.

    `center`, `scale`: median and interquartile range of each of the `numbers`, for the buffers of networks that standardise.
    """

    def __init__(self, features: Sequence[Feature], center: Sequence[float] = (), scale: Sequence[float] = ()):
        self.features, self.center, self.scale = tuple(features), list(center), list(scale)
        self._codes = [
            {value: number + KNOWN for number, value in enumerate(f.values)} for f in features if f.kind == "category"
        ]

    @classmethod
    def fit(
        cls, inputs: Sequence[Column], columns: Mapping[str, Any], rows: np.ndarray
    ) -> tuple[TableEncoder, dict[str, str]]:
        """The encoder, and the columns that cannot help with the reason of each; raise InvalidInput if none can."""
        features, dropped = [], {}
        for column in inputs:
            found = _learn(column, columns[column.name], rows)
            if isinstance(found, Feature):
                features.append(found)
            else:
                dropped[column.name] = found
        if not features:
            raise InvalidInput(
                "no input column can help to predict the target",
                received="; ".join(f"{name}: {reason}" for name, reason in dropped.items()),
                fix="Give other inputs, or change a column's type when importing (--type name=category).",
            )
        encoder = cls(features)
        encoder.center, encoder.scale = spread(encoder.encode(columns, rows).get("numbers"))
        return encoder, dropped

    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`numbers`: (n, …) float64 and `categories`: (n, …) int64, each only if the table has some."""
        numbers, categories = [], []
        codes = iter(self._codes)
        for feature in self.features:
            column = columns[feature.column.name]
            if feature.kind == "category":
                known = next(codes)
                found = [MISSING if v is None else known.get(v, UNKNOWN) for v in strings(column, rows)]
                categories.append(np.array(found, np.int64))
            elif feature.kind == "timestamp":
                numbers.extend(calendar(seconds(column, rows)))
            else:
                numbers.append(floats(column, rows))
        parts = {"numbers": numbers, "categories": categories}
        return {name: np.stack(arrays, axis=1) for name, arrays in parts.items() if arrays}

    @property
    def cardinalities(self) -> list[int]:
        """Codes of each category column, missing and unknown included."""
        return [len(f.values) + KNOWN for f in self.features if f.kind == "category"]

    @property
    def missing_numbers(self) -> list[int]:
        """Which of the `numbers` had missing values in training: their absence is a fact of its own."""
        flags = [
            f.missing
            for f in self.features
            if f.kind != "category"
            for _ in range(len(CALENDAR) if f.kind == "timestamp" else 1)
        ]
        return [number for number, missing in enumerate(flags) if missing]

    @property
    def number_names(self) -> list[str]:
        """What each of the `numbers` is, in order."""
        names = []
        for f in self.features:
            if f.kind == "timestamp":
                names += [f"{f.column.name}.{part}" for part in CALENDAR]
            elif f.kind == "number":
                names.append(f.column.name)
        return names

    @property
    def category_names(self) -> list[str]:
        return [f.column.name for f in self.features if f.kind == "category"]

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """JSON rows to columns; raise InvalidInput that names the row, the column and what is expected."""
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidInput(
                    f"row {number} is not an object", received=row, expected='an object like {"column": value}'
                )
            for f in self.features:
                if f.column.name not in row:
                    raise _absent(number, f.column.name, row)
        return {f.column.name: _READ[f.kind](f, [row[f.column.name] for row in rows]) for f in self.features}

    @property
    def request_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {f.column.name: _feature_schema(f) for f in self.features},
            "required": [f.column.name for f in self.features],
            "example": {f.column.name: f.example for f in self.features},
        }

    def state(self) -> dict[str, Any]:
        features = [
            {
                "name": f.column.name,
                "type": f.column.type,
                "kind": f.kind,
                "example": f.example,
                "values": list(f.values),
                "missing": f.missing,
                "low": f.low,
                "high": f.high,
            }
            for f in self.features
        ]
        return {"features": features, "center": self.center, "scale": self.scale}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TableEncoder:
        features = []
        for saved in state["features"]:
            known = {**saved, "values": tuple(saved["values"])}
            features.append(Feature(Column(known.pop("name"), known.pop("type")), **known))
        return cls(features, state["center"], state["scale"])


def build_table_network(kind: str, table: TableEncoder, outputs: int, config: Mapping[str, Any]) -> Any:
    """A network for this table. `outputs`: number of classes, 1 for a regression."""
    sizes = {
        "numbers": len(table.center),
        "missing": table.missing_numbers,
        "categories": table.cardinalities,
        "outputs": outputs,
    }
    needed = parameters(kind)
    network = build(kind, {name: size for name, size in sizes.items() if name in needed} | dict(config))
    if hasattr(network, "set_statistics"):
        network.set_statistics(table.center, table.scale)
    return network


def spread(numbers: np.ndarray | None) -> tuple[list[float], list[float]]:
    """Median and interquartile range of each column; half the range, then 1, where that is 0. Outliers move neither."""
    if numbers is None:
        return [], []
    low, center, high = np.nanquantile(numbers, [0.25, 0.5, 0.75], axis=0)
    half = (np.nanmax(numbers, axis=0) - np.nanmin(numbers, axis=0)) / 2
    scale = np.where(high > low, high - low, np.where(half > 0, half, 1.0))
    return center.tolist(), scale.tolist()


def calendar(time_s: np.ndarray) -> list[np.ndarray]:
    """Seconds since 1970 (UTC) to the numbers of CALENDAR, each (n,) float64, NaN where the time is."""
    known = np.isfinite(time_s)
    safe = np.where(known, time_s, 0.0)
    dates = np.floor(safe / DAY_S).astype(np.int64).astype("datetime64[D]")
    months, years = dates.astype("datetime64[M]"), dates.astype("datetime64[Y]")
    year_day = (dates - years.astype("datetime64[D]")).astype(np.float64)
    angle = 2 * np.pi * year_day / 365.25
    parts = [
        safe / DAY_S,
        years.astype(np.int64) + 1970.0,
        (months - years.astype("datetime64[M]")).astype(np.float64) + 1,
        (dates - months.astype("datetime64[D]")).astype(np.float64) + 1,
        # 1970-01-01 was a Thursday; Monday is 0.
        np.mod(dates.astype(np.int64) + 3, 7).astype(np.float64),
        np.mod(safe, DAY_S) / 3_600,
        np.sin(angle),
        np.cos(angle),
    ]
    return [np.where(known, part, np.nan) for part in parts]


def _learn(column: Column, values: Any, rows: np.ndarray) -> Feature | str:
    """What training rows say of a column, or the reason why it is left out."""
    if column.type in ("number", "integer", "boolean"):
        return _learn_number(column, floats(values, rows))
    if column.type == "timestamp":
        return _learn_time(column, seconds(values, rows))
    if column.type in ("category", "text"):
        return _learn_category(column, strings(values, rows))
    return f"a table's network cannot read type {column.type}"


def _learn_number(column: Column, found: np.ndarray) -> Feature | str:
    known = found[np.isfinite(found)]
    if not len(known):
        return "it is empty in all training rows"
    if len(known) == len(found) and (known == known[0]).all():
        return "it has the same value in all training rows"
    middle = float(np.median(known))
    whole = column.type == "integer" or bool((known == np.round(known)).all())
    example = bool(middle) if column.type == "boolean" else round(middle) if whole else float(f"{middle:.4g}")
    low, high = float(known.min()), float(known.max())
    return Feature(column, "number", example, missing=len(known) < len(found), low=low, high=high)


def _learn_time(column: Column, found: np.ndarray) -> Feature | str:
    known = found[np.isfinite(found)]
    if not len(known):
        return "it is empty in all training rows"
    low, high = float(known.min()), float(known.max())
    example = datetime.fromtimestamp((low + high) / 2 // DAY_S * DAY_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Feature(column, "timestamp", example, missing=len(known) < len(found), low=low, high=high)


def _learn_category(column: Column, found: list[str | None]) -> Feature | str:
    counts = Counter(value for value in found if value is not None)
    total = sum(counts.values())
    if not counts:
        return "it is empty in all training rows"
    if len(counts) == 1 and total == len(found):
        return "it has the same value in all training rows"
    if len(counts) > max(20, ID_FRACTION * total):
        what = (
            "text of its own in nearly every row" if column.type == "text" else "a value of its own in nearly every row"
        )
        return f"it has {what} ({len(counts)} distinct in {total} rows), which cannot carry over to new rows"
    # Ties by name: the same rows in another order give the same codes.
    ranked = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    return Feature(column, "category", ranked[0], values=tuple(sorted(ranked)), missing=total < len(found))


def _absent(number: int, name: str, row: Mapping[str, Any]) -> InvalidInput:
    close = nearest(name, [str(key) for key in row])
    fix = f"Did you mean {name!r} by {close!r}?" if close else f"Add {name!r}; send null if it is not known."
    return InvalidInput(f"row {number} has no {name!r}", received=list(row), fix=fix)


def _wrong(number: int, feature: Feature, value: Any, expected: str) -> InvalidInput:
    return InvalidInput(
        f"row {number}, column {feature.column.name!r} cannot be used", received=repr(value), expected=expected
    )


def _read_numbers(feature: Feature, values: list[Any]) -> np.ndarray:
    boolean = feature.column.type == "boolean"
    found = np.empty(len(values), np.float64)
    for number, value in enumerate(values):
        if value is None:
            found[number] = np.nan
        elif isinstance(value, bool) if boolean else isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                found[number] = value
            except OverflowError:
                raise _wrong(number, feature, shorten(value), "a number below 1e308") from None
        elif boolean and value in (0, 1):
            found[number] = value
        else:
            raise _wrong(number, feature, value, "true, false or null" if boolean else "a number or null")
    return found


def _read_categories(feature: Feature, values: list[Any]) -> list[str | None]:
    for number, value in enumerate(values):
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise _wrong(number, feature, value, "text or null")
    return strings(values)


def _read_times(feature: Feature, values: list[Any]) -> np.ndarray:
    return np.array([_time_s(number, feature, value) for number, value in enumerate(values)], np.float64)


def _time_s(number: int, feature: Feature, value: Any) -> float:
    if value is None or value != value:
        return np.nan
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _wrong(number, feature, value, "a date and time like 2026-01-31T12:00:00Z, or null") from None
    if not isinstance(value, datetime):
        if not hasattr(value, "year"):
            raise _wrong(number, feature, value, "a date and time like 2026-01-31T12:00:00Z, or null")
        value = datetime(value.year, value.month, value.day)
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


_READ = {"number": _read_numbers, "category": _read_categories, "timestamp": _read_times}


def _feature_schema(feature: Feature) -> dict[str, Any]:
    """JSON Schema of one value; null is a missing value, and the network knows what to do with it."""
    if feature.kind == "timestamp":
        return {"type": ["string", "null"], "format": "date-time"}
    if feature.kind == "category":
        known = ", ".join(shorten(value, 30) for value in feature.values[:20])
        more = f" and {len(feature.values) - 20} more" if len(feature.values) > 20 else ""
        return {
            "type": ["string", "null"],
            "description": f"Known values: {known}{more}. Another value counts as unknown.",
        }
    if feature.column.type == "boolean":
        return {"type": ["boolean", "null"]}
    text = f"In training from {feature.low:g} to {feature.high:g}."
    return {"type": ["number", "null"], "description": text}
