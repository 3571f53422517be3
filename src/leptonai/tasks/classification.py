"""What every classification shares: labels, cross-entropy, probabilities, metrics and the response. A task adds its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base.errors import Corrupt, InvalidInput
from .labels import Labels
from .metrics import classification_metrics
from .task import Task

if TYPE_CHECKING:
    import torch

    from ..data.schema import Column


class Classification(Task):
    """Raw outputs are logits or log-probabilities (n, classes). A subclass sets `self.labels = Labels.fit(…)` in `fit`."""

    metric: ClassVar[str] = "accuracy"
    label_smoothing: float = 0.0
    labels: Labels | None = None

    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        # −1: a label that was not there in training; it can only stand in validation rows.
        return cross_entropy(raw, target, ignore_index=-1, label_smoothing=self.label_smoothing)

    def finish(self, raw: np.ndarray) -> np.ndarray:
        raw = np.asarray(raw, np.float64)
        if not np.isfinite(raw).all():
            # NaN would leave the server as invalid JSON; only broken weights give it.
            raise Corrupt(
                "the network's outputs are not numbers", fix="Train the model again, or serve an earlier version."
            )
        weights = np.exp(raw - raw.max(1, keepdims=True))
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)

    def truth(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> np.ndarray:
        return self._labels.numbers(columns[self.target.name], rows)

    def metrics(self, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        return classification_metrics(truth, outputs)

    def decode(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        return self._labels.scores(outputs)

    @property
    def response_schema(self) -> dict[str, Any]:
        return self._labels.response_schema

    @property
    def classes(self) -> list[Any] | None:
        return self._labels.classes

    @property
    def _labels(self) -> Labels:
        if self.labels is None:
            raise InvalidInput(
                f"this {self.name} task has not seen training rows yet", fix="Call task.fit(columns, rows) first."
            )
        return self.labels


def check_label_column(target: Column, task: str) -> None:
    """Raise InvalidInput if a column of this type cannot hold labels."""
    if target.type in ("image", "audio", "tensor", "timestamp"):
        raise InvalidInput(
            f"{task} cannot predict column {target.name!r}",
            received=f"type {target.type}",
            expected="text, category, integer, boolean or number",
            fix="Choose another target.",
        )
