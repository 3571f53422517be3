"""Tabular regression: one number from the columns of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base.errors import InvalidInput
from ..data.schema import Column
from .arrays import floats
from .labels import missing_target
from .metrics import regression_metrics
from .registry import choose_inputs, choose_target
from .tabular import TableEncoder, build_table_network
from .task import Encoded, Task

if TYPE_CHECKING:
    import torch

    from ..data.columns import Columns
    from ..data.dataset import Dataset


class TabularRegression(Task):
    """The target is standardised for training (mean 0, deviation 1 on training rows), and outputs are in its own unit."""

    name: ClassVar[str] = "tabular-regression"
    networks: ClassVar[tuple[str, ...]] = ("lightgbm", "linear", "mlp")
    metric: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, inputs: Sequence[Column], target: Column):
        self.inputs, self.target = tuple(inputs), target
        self.table: TableEncoder | None = None
        self.center, self.scale = 0.0, 1.0

    @classmethod
    def plan(
        cls, dataset: Dataset, target: str | None, inputs: Sequence[str] | None, network: str | None = None
    ) -> TabularRegression:
        column = choose_target(dataset.schema, target)
        if column.type not in ("number", "integer", "boolean"):
            raise InvalidInput(
                f"{cls.name} cannot predict column {column.name!r}",
                received=f"type {column.type}",
                expected="number or integer",
                fix="Use the task tabular-classification, or choose another target.",
            )
        return cls(choose_inputs(dataset.schema, column, inputs), column)

    def fit(self, columns: Columns, rows: np.ndarray) -> None:
        found = floats(columns[self.target.name], rows)
        missing = np.asarray(rows)[np.isnan(found)].tolist()
        if missing:
            raise missing_target(self.target.name, missing, "a finite number")
        if len(found) < 2 or (found == found[0]).all():
            raise InvalidInput(
                f"the target {self.target.name!r} has the same value in all {len(found)} training rows",
                fix="Choose another target, or add rows with other values.",
            )
        self.center, self.scale = float(found.mean()), float(found.std())
        self.table, self.dropped = TableEncoder.fit(self.inputs, columns, rows)
        self.inputs = tuple(feature.column for feature in self.table.features)

    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> Encoded:
        target = None
        if self.target.name in columns:
            target = (self.truth(columns, rows) - self.center) / self.scale
        return Encoded(self.table.encode(columns, rows), target)

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self.table.columns_of(rows)

    def build(self, kind: str, config: Mapping[str, Any]) -> Any:
        return build_table_network(kind, self.table, 1, config)

    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import mse_loss

        # A validation row without a target takes no part.
        known = target.isfinite()
        return mse_loss(raw[known].float(), target[known].float())

    def finish(self, raw: np.ndarray) -> np.ndarray:
        return np.asarray(raw, np.float64) * self.scale + self.center

    def truth(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> np.ndarray:
        return floats(columns[self.target.name], rows)

    def metrics(self, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        return regression_metrics(truth, outputs)

    def decode(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        return [{"value": value} for value in outputs.tolist()]

    @property
    def request_schema(self) -> dict[str, Any]:
        return self.table.request_schema

    @property
    def response_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"value": {"type": "number", "description": f"Predicted {self.target.name}."}},
            "required": ["value"],
            "additionalProperties": False,
            "example": {"value": float(f"{self.center:.4g}")},
        }

    def state(self) -> dict[str, Any]:
        return {
            "target": {"name": self.target.name, "type": self.target.type, "center": self.center, "scale": self.scale},
            "table": self.table.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], files: Mapping[str, bytes]) -> TabularRegression:
        table, target = TableEncoder.from_state(state["table"]), state["target"]
        task = cls([feature.column for feature in table.features], Column(target["name"], target["type"]))
        task.table, task.center, task.scale = table, target["center"], target["scale"]
        return task
