"""Adversarial training of image models: every batch is changed, within a bound, so that the loss grows.

FGSM from a random start (Wong et al. 2020, "Fast is better than free") or PGD (Madry et al. 2018); also the attack that measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import InvalidInput
from ..fields import Count, Part, Positive
from .method import Context, Method

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

# Rows that the attack measures: twenty gradients of each.
MEASURED_ROWS = 1000
MEASURED_STEPS = 20
PIXEL = 255.0


class Adversarial(Part):
    attack: Literal["fgsm", "pgd"] = "fgsm"
    """`fgsm`: one step from a random start, about twice the cost of training. `pgd`: `steps` steps."""
    epsilon: Positive = 0.1
    """Most that any pixel changes, in units of the range 0…1 (L∞)."""
    steps: Count = 7

    def make(self) -> Method:
        return AdversarialMethod(self)


class AdversarialMethod(Method):
    name = "adversarial"

    def __init__(self, options: Adversarial):
        self.options_ = options
        self.found: dict[str, Any] = {}

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        if [column.type for column in context.task.inputs] != ["image"]:
            raise InvalidInput(
                "`method.adversarial` changes pixels",
                received=f"task {context.task.name}",
                expected="a task on one image",
            )
        self.task = context.task

    def inputs(
        self, network: torch.nn.Module, batch: dict[str, torch.Tensor], target: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        epsilon = self.options_.epsilon * PIXEL
        if self.options_.attack == "fgsm":
            steps, size = 1, 1.25 * epsilon
        else:
            steps, size = self.options_.steps, 2.5 * epsilon / self.options_.steps
        image = attack(network, batch["image"].float(), target, self.task.loss, epsilon, steps, size, generator)
        return {**batch, "image": image}

    def end(self, network: torch.nn.Module, context: Context) -> None:
        held = context.measured
        if held is None:
            return
        epsilon = self.options_.epsilon
        accuracy = robust_accuracy(network, held.inputs["image"], held.target, context.task.loss, epsilon)
        self.found = {
            "epsilon": epsilon, "attack": f"PGD-{MEASURED_STEPS}", "rows": min(len(held.target), MEASURED_ROWS),
            "robust_accuracy": accuracy,
        }  # fmt: skip
        if context.plan.origin is not None:
            before = context.plan.origin.network
            self.found["robust_accuracy_before"] = robust_accuracy(
                before, held.inputs["image"], held.target, context.task.loss, epsilon
            )

    def facts(self) -> dict[str, Any]:
        return self.found


def attack(
    network: torch.nn.Module, image: torch.Tensor, target: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], epsilon: float, steps: int, size: float,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Images (n, …) float in 0…255, each pixel at most `epsilon` from where it was, that `network` errs on more.

    The network stays in the mode it is in; its own gradients are untouched.
    """
    import torch

    change = (2 * torch.rand(image.shape, generator=generator) - 1) * epsilon
    for _ in range(steps):
        change.requires_grad_(True)
        with torch.enable_grad():
            wrong = loss(network(image=(image + change).clamp(0, PIXEL)).float(), target)
            (gradient,) = torch.autograd.grad(wrong, change)
        change = (change.detach() + size * gradient.sign()).clamp(-epsilon, epsilon)
    return (image + change).clamp(0, PIXEL)


def robust_accuracy(
    network: torch.nn.Module, images: np.ndarray, target: np.ndarray, loss: Any, epsilon: float,
    rows: int = MEASURED_ROWS, steps: int = MEASURED_STEPS, seed: int = 0,
) -> float:  # fmt: skip
    """Share of the first `rows` images that are still right after PGD within `epsilon` (of the range 0…1)."""
    import numpy as np
    import torch

    generator, training = torch.Generator().manual_seed(seed), network.training
    network.eval()
    right, bound = 0, epsilon * PIXEL
    rows = min(rows, len(target))
    for start in range(0, rows, 250):
        stop = min(start + 250, rows)
        image = torch.from_numpy(np.ascontiguousarray(images[start:stop])).float()
        truth = torch.from_numpy(np.ascontiguousarray(target[start:stop]))
        changed = attack(network, image, truth, loss, bound, steps, 2.5 * bound / steps, generator)
        with torch.inference_mode():
            right += int((network(image=changed).argmax(1) == truth).sum())
    network.train(training)
    return right / max(1, rows)
