"""Structured pruning: the least important channels or units are taken out, so that the network is really smaller and faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...base.errors import InvalidInput
from ..fields import Part, Share
from .method import Context, Method, count, needs_parent

if TYPE_CHECKING:
    import torch


class Prune(Part):
    share: Share = Field(default=0.5, gt=0)
    """Share of the channels or units of each layer that goes."""

    def make(self) -> Method:
        return PruneMethod(self)


class PruneMethod(Method):
    """Before the first step; the recipe's training then is the fine-tuning of what is left."""

    name = "prune"

    def __init__(self, options: Prune):
        self.share = options.share
        self.found: dict[str, Any] = {}

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        import torch

        from ...nets.resize import resize

        needs_parent(self.name, context)
        check_resizable(network, self.name)
        self.found = {"parameters_before": count(network), "options_before": _sizes(network)}
        kept = context.run.state.get("prune")
        if kept is None:
            picks = {group.name: most_important(network, group, self.share) for group in network.groups()}
            kept = context.run.state["prune"] = {name: pick.tolist() for name, pick in picks.items()}
        resize(network, {name: torch.tensor(pick) for name, pick in kept.items()})

    def end(self, network: torch.nn.Module, context: Context) -> None:
        self.found |= {"parameters": count(network), "options": _sizes(network)}

    def facts(self) -> dict[str, Any]:
        return self.found


def most_important(network: torch.nn.Module, group: Any, share: float) -> torch.Tensor:
    """Indices of the units to keep, in their order."""
    import torch

    keep = max(1, round(group.size * (1 - share)))
    return torch.sort(torch.topk(importance(network, group), keep).indices).values


def importance(network: torch.nn.Module, group: Any) -> torch.Tensor:
    """(size,): the product of the norms of a unit's incoming and outgoing weights."""
    import torch

    modules = dict(network.named_modules())
    weight = torch.ones(group.size)
    for name in group.out:
        own = modules[name].weight.detach()
        if own.ndim == 1:  # a norm scales what the convolution made
            scale = own.abs()
            weight = weight * (scale if scale.any() else 1)
        else:
            weight = weight * own.flatten(1).norm(dim=1)
    for name, _ in group.into:
        own = modules[name].weight.detach()
        weight = weight * own.transpose(0, 1).reshape(group.size, -1).norm(dim=1)
    return weight


def check_resizable(network: Any, name: str) -> None:
    if not hasattr(network, "groups"):
        raise InvalidInput(
            f"`method.{name}` cannot change the size of this network",
            received=f"kind {network.kind}",
            expected="cnn, mlp or transformer",
        )


def _sizes(network: Any) -> dict[str, int]:
    return {group.name: group.size for group in network.groups()}
