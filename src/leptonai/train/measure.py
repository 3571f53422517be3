"""Metrics of a network on held-out rows, during and after training. The rows are encoded once and kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..nets.registry import is_learner

if TYPE_CHECKING:
    from ..tasks.task import Task

# Rows per forward pass: activations stay in the processor's cache, and the cost per call is spread.
EVALUATION_BATCH = 500


class HeldOut:
    """Rows of one part, their `numbers` in the dataset. `seconds`: how long the last measurement took."""

    def __init__(self, task: Task, columns: Any, rows: np.ndarray):
        encoded = task.encode(columns, rows)
        self.task, self.rows, self.numbers = task, len(rows), rows
        self.inputs, self.target = encoded.inputs, encoded.target
        self.truth = task.truth(columns, rows)
        self.seconds = 0.0

    def raw(self, network: Any, rows: int | None = None) -> np.ndarray:
        """The network's raw outputs of the first `rows` rows (None: all)."""
        rows = self.rows if rows is None else min(rows, self.rows)
        if is_learner(network):
            return network.predict({name: array[:rows] for name, array in self.inputs.items()})
        training, parts = network.training, []
        network.eval()
        with torch.inference_mode():
            for start in range(0, rows, EVALUATION_BATCH):
                stop = min(start + EVALUATION_BATCH, rows)
                batch = {name: torch.from_numpy(np.ascontiguousarray(a[start:stop])) for name, a in self.inputs.items()}
                parts.append(network(**batch).float().numpy())
        network.train(training)
        return np.concatenate(parts)

    def measure(self, network: Any, rows: int | None = None) -> dict[str, float]:
        """The task's metrics and `loss`."""
        began = time.monotonic()
        raw = self.raw(network, rows)
        found = self.metrics(raw)
        self.seconds = time.monotonic() - began
        return found

    def metrics(self, raw: np.ndarray) -> dict[str, float]:
        outputs = self.task.finish(raw)
        loss = self.task.loss(torch.from_numpy(np.asarray(raw)), torch.from_numpy(self.target[: len(raw)]))
        return {"loss": float(loss), **self.task.metrics(self.truth[: len(raw)], outputs)}

    def estimate_s(self, network: Any) -> float:
        """How long a measurement will take, from its first batch."""
        self.metrics(self.raw(network, min(self.rows, 8)))  # what is imported and allocated only once is not counted
        began = time.monotonic()
        rows = min(self.rows, EVALUATION_BATCH)
        self.metrics(self.raw(network, rows))
        return (time.monotonic() - began) * max(1.0, self.rows / rows)


def named(part: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{part}.{name}": value for name, value in metrics.items()}
