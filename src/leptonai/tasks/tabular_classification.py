"""Tabular classification: one label from the columns of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..data.schema import Column
from .classification import Classification, check_label_column
from .labels import Labels
from .registry import choose_inputs, choose_target
from .tabular import TableEncoder, build_table_network
from .task import Encoded

if TYPE_CHECKING:
    from ..data.columns import Columns
    from ..data.dataset import Dataset


class TabularClassification(Classification):
    name: ClassVar[str] = "tabular-classification"
    networks: ClassVar[tuple[str, ...]] = ("lightgbm", "linear", "mlp")

    def __init__(self, inputs: Sequence[Column], target: Column):
        self.inputs, self.target = tuple(inputs), target
        self.table: TableEncoder | None = None

    @classmethod
    def plan(
        cls, dataset: Dataset, target: str | None, inputs: Sequence[str] | None, network: str | None = None
    ) -> TabularClassification:
        column = choose_target(dataset.schema, target)
        check_label_column(column, cls.name)
        return cls(choose_inputs(dataset.schema, column, inputs), column)

    def fit(self, columns: Columns, rows: np.ndarray) -> None:
        self.labels = Labels.fit(columns[self.target.name], rows, self.target.name)
        self.table, self.dropped = TableEncoder.fit(self.inputs, columns, rows)
        self.inputs = tuple(feature.column for feature in self.table.features)

    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> Encoded:
        target = self.truth(columns, rows) if self.target.name in columns else None
        return Encoded(self.table.encode(columns, rows), target)

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self.table.columns_of(rows)

    def build(self, kind: str, config: Mapping[str, Any]) -> Any:
        return build_table_network(kind, self.table, len(self._labels.classes), config)

    @property
    def request_schema(self) -> dict[str, Any]:
        return self.table.request_schema

    def state(self) -> dict[str, Any]:
        return {
            "target": {"name": self.target.name, "type": self.target.type},
            "classes": self._labels.classes,
            "table": self.table.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], files: Mapping[str, bytes]) -> TabularClassification:
        table = TableEncoder.from_state(state["table"])
        task = cls([feature.column for feature in table.features], Column(**state["target"]))
        task.table, task.labels = table, Labels(state["classes"])
        return task
