"""Weights in 8 or 4 bits: rounded after training, or trained with the rounding (Jacob et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..fields import Part
from .method import Context, Method

if TYPE_CHECKING:
    import torch


class Quantize(Part):
    bits: Literal[8, 4] = 8
    aware: bool = False
    """Train with rounded weights, so that the network learns to do with them; for 4 bits, or where 8 lose too much."""

    def make(self) -> Method:
        return QuantizeMethod(self)


class QuantizeMethod(Method):
    """The weights are stored as integers with a scale per row (8 bits) or per 32 numbers (4 bits); it computes in float32."""

    name = "quantize"

    def __init__(self, options: Quantize):
        self.options_ = options
        self.found: dict[str, Any] = {}

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        from torch.nn.utils import parametrize

        self.wrapped: list[tuple[str, str]] = []
        if not self.options_.aware:
            return
        from ...nets.quantized import rounded_names

        for name in rounded_names(network.state_dict()):
            module, _, leaf = name.rpartition(".")
            if any(parametrize.is_parametrized(network.get_submodule(module)) for _ in (0,)):
                continue
            parametrize.register_parametrization(network.get_submodule(module), leaf, _rounding(self.options_.bits))
            self.wrapped.append((module, leaf))

    def end(self, network: torch.nn.Module, context: Context) -> None:
        from torch.nn.utils import parametrize

        from ...nets.quantized import quantize

        before = None
        for module, leaf in self.wrapped:
            parametrize.remove_parametrizations(network.get_submodule(module), leaf, leave_parametrized=False)
        held, metric = context.measured, context.task.metric
        if held is not None:
            before = float(held.measure(network)[metric])
        sizes = quantize(network, self.options_.bits)
        self.found = {"bits": self.options_.bits, "bytes_before": sizes[0], "bytes": sizes[1]}
        if before is not None:
            self.found |= {f"{metric}_float32": before, metric: float(held.measure(network)[metric])}

    def facts(self) -> dict[str, Any]:
        return self.found


def _rounding(bits: int) -> torch.nn.Module:
    from torch import nn

    from ...nets.quantized import rounded

    class Rounding(nn.Module):
        """Rounded on the way forward; the gradient passes as if it were not (straight-through)."""

        def forward(self, original: torch.Tensor) -> torch.Tensor:
            return original + (rounded(original.detach(), bits) - original.detach())

    return Rounding()
