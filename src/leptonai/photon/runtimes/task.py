"""Models of the zoo as a runtime: columns that the task has read in, its outputs (probabilities or values) out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...tasks.model import Model


class TaskRuntime:
    """`run` takes what `task.columns_of` gives: arrays, and lists of texts."""

    kind = "zoo"

    def __init__(self, model: Model):
        self.model = model

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"outputs": self.model.outputs(inputs)}
