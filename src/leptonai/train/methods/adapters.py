"""Bottleneck adapters, prefix tuning and prompt tuning: small parts added to a trained Transformer, and only they learn.

They are options of the network, so the published model is an ordinary one that anybody can load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput
from ..fields import Count, Part
from .method import Context, Method, count, freeze_all_but, head_names, needs_parent

if TYPE_CHECKING:
    import torch


class Adapter(Part):
    """A bottleneck after each sublayer (Houlsby et al. 2019)."""

    size: Count = 16
    """Units of the bottleneck."""

    def make(self) -> Method:
        return AddedMethod("adapter", self.size, ".adapters.")


class Prefix(Part):
    """Learned keys and values before those of each block (Li & Liang 2021)."""

    length: Count = 8

    def make(self) -> Method:
        return AddedMethod("prefix", self.length, ".prefix")


class Prompt(Part):
    """Learned embeddings before the tokens (Lester et al. 2021)."""

    length: Count = 8

    def make(self) -> Method:
        return AddedMethod("prompt", self.length, "prompt")


class AddedMethod(Method):
    def __init__(self, option: str, size: int, mark: str):
        self.name, self.size, self.mark = option, size, mark
        self.trained = self.all = 0

    def options(self, network_options: Mapping[str, Any]) -> dict[str, Any]:
        if self.name not in network_options:
            raise InvalidInput(
                f"`method.{self.name}` needs a network with attention", expected="kind transformer",
                fix="Use `lora`, which fits every network trained by gradient.",
            )  # fmt: skip
        return {self.name: self.size}

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        needs_parent(self.name, context)
        added = {name for name, _ in network.named_parameters() if self.mark in name}
        freeze_all_but(network, added | head_names(network))
        self.trained, self.all = count(network, trained=True), count(network)

    def facts(self) -> dict[str, Any]:
        return {"trained_parameters": self.trained, "parameters": self.all}
