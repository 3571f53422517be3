"""Muon: momentum, made orthogonal. For hidden weight matrices; every other parameter goes to AdamW.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon); the update's scale
of 0.2·√max(rows, columns), which lets it share AdamW's learning rate and decay, is Liu et al. 2025, arXiv:2502.16982, eq. 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

# Coefficients of the quintic iteration (Jordan et al. 2024): steep at 0, so five rounds bring singular values to about 1.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Newton-Schulz: the nearest semi-orthogonal matrix to `matrix` (rows, columns), singular values within about 0.7 to 1.2."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Two kinds of group in one optimizer, so that it is saved, scheduled and accumulated as one.

    `matrices`: parameters of two or more dimensions, updated by Muon (a convolution (out, in, h, w) counts as (out, in·h·w)).
    `others`: parameter groups for AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: Iterable[dict[str, Any]] = (),
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ):
        groups = [{"params": list(matrices), "muon": True}, *({**group, "muon": False} for group in others)]
        groups = [group for group in groups if group["params"]]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            update = self._matrix if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)

    def _matrix(
        self, parameter: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
        direction = grad.lerp(momentum, group["momentum"]).reshape(len(grad), -1)  # Nesterov's look-ahead
        scale = 0.2 * max(direction.shape) ** 0.5
        parameter.add_(orthogonalise(direction).reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _adamw(self, parameter: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Loshchilov and Hutter 2019, algorithm 2."""
        if not state:
            state.update(count=0, mean=torch.zeros_like(grad), square=torch.zeros_like(grad))
        state["count"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(grad, 1 - first)
        square = state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        root = (square / (1 - second ** state["count"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - first ** state["count"]))
