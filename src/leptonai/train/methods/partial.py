"""Partial fine-tuning, and learning rates that fall from the outputs to the inputs."""

from __future__ import annotations

import re
from typing import Any

from ...base.errors import InvalidInput, nearest
from ..fields import Part, Positive
from .method import Context, Method, count


class Partial(Part):
    """Only some layers learn; the others stay as they are."""

    train: tuple[str, ...]
    """Names of layers or parameters, such as `head` or `blocks.1`: all that begins with one of them learns."""

    def make(self) -> Method:
        return PartialMethod(self)


class LayerRates(Part):
    """Layers near the inputs learn more slowly (Howard & Ruder 2018, discriminative fine-tuning)."""

    decay: Positive = 0.8
    """Factor of the learning rate from each layer to the one below it."""

    def make(self) -> Method:
        return LayerRatesMethod(self)


class PartialMethod(Method):
    name = "partial"

    def __init__(self, options: Partial):
        self.options_ = options
        self.counts: tuple[int, int] = (0, 0)

    def begin(self, network: Any, context: Context) -> None:
        names = [name for name, _ in network.named_parameters()]
        for wanted in self.options_.train:
            if not any(name == wanted or name.startswith(f"{wanted}.") for name in names):
                known = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
                close = nearest(wanted, known)
                raise InvalidInput(
                    "`method.partial.train` names no layer", received=wanted, expected=", ".join(known),
                    fix=f"Did you mean {close!r}?" if close else None,
                )  # fmt: skip
        for name, parameter in network.named_parameters():
            learns = any(name == wanted or name.startswith(f"{wanted}.") for wanted in self.options_.train)
            parameter.requires_grad_(learns and parameter.requires_grad)
        self.counts = count(network, trained=True), count(network)

    def facts(self) -> dict[str, Any]:
        return {"trained_parameters": self.counts[0], "parameters": self.counts[1]}


class LayerRatesMethod(Method):
    name = "layer_rates"

    def __init__(self, options: LayerRates):
        self.decay, self.layers = options.decay, 0

    def groups(self, network: Any, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        depth = _depths(network)
        self.layers = max(depth.values()) + 1
        found = []
        for group in groups:
            for layer in sorted({depth[id(p)] for p in group["params"]}):
                rate = group["lr"] * self.decay ** (self.layers - 1 - layer)
                found.append({**group, "params": [p for p in group["params"] if depth[id(p)] == layer], "lr": rate})
        return found

    def facts(self) -> dict[str, Any]:
        return {"layers": self.layers, "lowest_rate": round(self.decay ** (self.layers - 1), 6)}


def _depths(network: Any) -> dict[int, int]:
    """The layer of each parameter, counted from the inputs; a numbered block (`blocks.3`) is one layer."""
    layers: dict[str, int] = {}
    found = {}
    for name, parameter in network.named_parameters():
        match = re.match(r"[^.]+(\.\d+)?", name)
        layer = layers.setdefault(match[0] if match else name, len(layers))
        found[id(parameter)] = layer
    return found
