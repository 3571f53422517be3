"""Column types. What a column means is kept in its Arrow field's metadata, so a table carries its own schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

ColumnType = Literal["number", "integer", "boolean", "category", "text", "timestamp", "image", "audio", "tensor"]
TYPES: tuple[str, ...] = get_args(ColumnType)
SPLIT = "split"
"""The column that says whether a row is for `train`, `validation` or `test`."""


@dataclass(frozen=True)
class Column:
    """`shape`: (height, width, channels) of raw images, the shape of tensors; None where rows differ or it means nothing."""

    name: str
    type: ColumnType
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Schema:
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def __contains__(self, name: object) -> bool:
        return any(column.name == name for column in self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)
