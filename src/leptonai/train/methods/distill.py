"""Distillation: a small network learns the outputs of a trained model beside the labels (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import InvalidInput
from ..fields import Part, Positive, Ref, Share
from .method import Context, Method, count

if TYPE_CHECKING:
    import torch

# Probabilities below this are noise of the teacher's last layer.
LEAST = 1e-7


class Distill(Part):
    teacher: Ref
    """A published model of the same task and classes, of any kind: a learner can teach a network."""
    temperature: Positive = 3.0
    weight: Share = 0.7
    """Share of the teacher in the loss; the rest is the labels'."""

    def make(self) -> Method:
        return DistillMethod(self)


class DistillMethod(Method):
    name = "distill"

    def __init__(self, options: Distill):
        self.options_ = options
        self.found: dict[str, Any] = {}

    def more_rows(self, arrays: dict[str, np.ndarray], context: Context) -> dict[str, np.ndarray]:
        """The teacher speaks once of each row; rows that another method added (replay) are not its own."""
        from ...tasks.model import load

        teacher, task = load(self.options_.teacher, context.run.home), context.task
        if teacher.manifest.task != task.name or teacher.task.classes != task.classes:
            raise InvalidInput(
                f"{teacher.manifest.ref} cannot teach this model",
                received=f"{teacher.manifest.task}, classes {teacher.task.classes}",
                expected=f"{task.name}, classes {task.classes}",
                fix="Train the teacher on the same target.",
            )
        rows = context.plan.parts["train"]
        said = teacher.outputs(context.columns, rows)
        if task.classes is None:  # values of the target's unit; the loss knows standardised ones
            said = self._standardised(task, np.asarray(said, np.float64))
        else:
            said = np.log(np.maximum(said, LEAST)).astype(np.float32)
        self._student, self._teacher = context, teacher
        return {**arrays, "distill.teacher": said}

    def _standardised(self, task: Any, values: np.ndarray) -> np.ndarray:
        """`finish` is affine in the raw value: two points give its scale."""
        zero, one = task.finish(np.array([0.0, 1.0]))
        if one == zero or not np.isclose(task.finish(np.array([2.0]))[0] - one, one - zero):
            raise InvalidInput("this task cannot be distilled", received="a target that is transformed")
        return ((values - zero) / (one - zero)).astype(np.float64)

    def loss(
        self, loss: torch.Tensor, raw: torch.Tensor, own: Mapping[str, torch.Tensor], network: torch.nn.Module
    ) -> torch.Tensor:
        from torch.nn import functional as F

        weight, temperature, said = self.options_.weight, self.options_.temperature, own["teacher"]
        if raw.ndim == 1:
            return (1 - weight) * loss + weight * F.mse_loss(raw, said.to(raw.dtype))
        student = F.log_softmax(raw / temperature, 1)
        teacher = F.log_softmax(said / temperature, 1)
        divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
        return (1 - weight) * loss + weight * temperature**2 * divergence  # the square keeps the gradient's size

    def end(self, network: torch.nn.Module, context: Context) -> None:
        held, teacher = context.measured, self._teacher
        found: dict[str, Any] = {"teacher": teacher.manifest.ref, "parameters": count(network)}
        if not hasattr(teacher.network, "fit"):
            found["teacher_parameters"] = count(teacher.network)
        if held is not None:
            outputs = teacher.outputs(context.columns, held.numbers)
            metric = context.task.metric
            found[f"teacher_{metric}"] = float(context.task.metrics(held.truth, outputs)[metric])
        self.found = found

    def facts(self) -> dict[str, Any]:
        return self.found
