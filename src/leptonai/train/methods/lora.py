"""LoRA and IA3 on any network of ours: low-rank or scaling changes of its matrices, merged into them at the end.

They are parametrizations: the network's own forward runs as it is, and the published model has the shape of its parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..fields import Count, Part, Positive, Share
from .method import Context, Method, count, freeze_all_but, head_names, needs_parent

if TYPE_CHECKING:
    import torch


class Lora(Part):
    """W + (alpha / rank) · B A, with only A, B and the last layer trained (Hu et al. 2021)."""

    rank: Count = 8
    alpha: Positive | None = None
    """Strength of the change; None: twice the rank."""
    dropout: Share = 0.0
    """Share of A's rows that a step leaves out."""

    def make(self) -> Method:
        return LoraMethod(self)


class Ia3(Part):
    """Each matrix's outputs scaled by learned factors; only those and the last layer are trained (after Liu et al. 2022)."""

    def make(self) -> Method:
        return Ia3Method()


class _Parametrized(Method):
    """Every weight of two or more axes gets a parametrization; the parent's own weights are frozen."""

    def __init__(self) -> None:
        self.trained = self.all = 0

    def change(self, weight: torch.Tensor) -> torch.nn.Module:
        raise NotImplementedError

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        from torch import nn
        from torch.nn.utils import parametrize

        needs_parent(self.name, context)
        head = head_names(network)
        self.all = count(network)
        freeze_all_but(network, head)
        self.changed = [
            name for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and f"{name}.weight" not in head
        ]  # fmt: skip
        for name in self.changed:
            module = network.get_submodule(name)
            parametrize.register_parametrization(module, "weight", self.change(module.weight))
            module.parametrizations.weight.original.requires_grad_(False)
        self.trained = count(network, trained=True)

    def end(self, network: torch.nn.Module, context: Context) -> None:
        from torch.nn.utils import parametrize

        for name in self.changed:
            parametrize.remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=True)

    def facts(self) -> dict[str, Any]:
        return {"trained_parameters": self.trained, "parameters": self.all, "matrices": len(self.changed)}


class LoraMethod(_Parametrized):
    name = "lora"

    def __init__(self, options: Lora):
        super().__init__()
        self.options_ = options

    def change(self, weight: torch.Tensor) -> torch.nn.Module:
        rank = min(self.options_.rank, weight.shape[0], weight[0].numel())
        alpha = self.options_.alpha or 2.0 * self.options_.rank
        return _low_rank(weight, rank, alpha / self.options_.rank, self.options_.dropout)


class Ia3Method(_Parametrized):
    name = "ia3"

    def change(self, weight: torch.Tensor) -> torch.nn.Module:
        return _scaled(weight)


def _low_rank(weight: torch.Tensor, rank: int, scale: float, dropout: float) -> torch.nn.Module:
    import torch
    from torch import nn

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.empty(rank, weight[0].numel()))
            self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
            nn.init.kaiming_uniform_(self.a, a=5**0.5)

        def forward(self, original: torch.Tensor) -> torch.Tensor:
            a = self.a
            if self.training and dropout:
                a = a * (torch.rand(rank, 1) >= dropout) / (1 - dropout)
            return original + scale * (self.b @ a).view_as(original)

    return LowRank()


def _scaled(weight: torch.Tensor) -> torch.nn.Module:
    import torch
    from torch import nn

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(weight.shape[0], *[1] * (weight.ndim - 1)))

        def forward(self, original: torch.Tensor) -> torch.Tensor:
            return original * self.factor

    return Scaled()
