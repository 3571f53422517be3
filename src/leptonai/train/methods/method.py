"""What a method of training may do round the loop. The loop calls these hooks in the order in which they stand here.

A method is made from its part of the recipe (`options.make()`), holds what it needs while the run lasts, and says in `facts` what it
changed. What a resumed run depends on goes into `run.state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ...tasks.task import Task
    from ..measure import HeldOut
    from ..plan import Plan
    from ..run import Run


@dataclass(frozen=True)
class Context:
    """What a method may look at. `columns`: of the recipe's dataset; `held`: the rows that measure, by part."""

    plan: Plan
    run: Run
    columns: Any
    held: Mapping[str, HeldOut]

    @property
    def task(self) -> Task:
        return self.plan.task

    @property
    def measured(self) -> HeldOut | None:
        """Test rows, or validation rows where there are none."""
        return self.held.get("test") or self.held.get("validation")


class Method:
    name = ""

    def options(self, network_options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the network that this method adds (an adapter, a prefix)."""
        return {}

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        """The network has its weights (a parent's, or fresh ones), and no optimizer yet: freeze, wrap, remove."""

    def more_rows(self, arrays: dict[str, np.ndarray], context: Context) -> dict[str, np.ndarray]:
        """The training rows as the loader will hold them: may add rows, or a column of its own (`<method>.…`)."""
        return arrays

    def groups(self, network: torch.nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The optimizer's parameter groups; each may get its own `lr`."""
        return groups

    def inputs(
        self, network: torch.nn.Module, batch: dict[str, torch.Tensor], target: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The inputs that the network is trained on in this step."""
        return batch

    def loss(
        self, loss: torch.Tensor, raw: torch.Tensor, own: Mapping[str, torch.Tensor], network: torch.nn.Module
    ) -> torch.Tensor:
        """The loss that is learned; `own`: this method's columns of the batch, without the prefix."""
        return loss

    def after_epoch(self, network: torch.nn.Module, optimizer: Any, context: Context) -> None:
        """After the evaluation of an epoch, before the next step: may change the network and the optimizer in place."""

    def end(self, network: torch.nn.Module, context: Context) -> None:
        """The best weights are in the network: merge, unwrap, round. It is measured and published after this."""

    def facts(self) -> dict[str, Any]:
        """What it did, in numbers, for the report: JSON."""
        return {}


def needs_parent(name: str, context: Context) -> None:
    if context.plan.origin is None:
        raise InvalidInput(
            f"`method.{name}` adapts a trained model",
            received="a recipe without `model.from`",
            expected="the model to begin with",
            fix="Add `from: NAME@VERSION` to `model`.",
        )


def count(network: torch.nn.Module, trained: bool = False) -> int:
    """Numbers in the network's parameters; `trained`: only those that learn."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)


def freeze_all_but(network: torch.nn.Module, names: set[str]) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)


def head_names(network: torch.nn.Module) -> set[str]:
    """Parameters of the last layer, which every way of adapting trains too: it maps to this task's outputs."""
    from torch import nn

    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    return {f"{last}.{leaf}" for leaf, _ in network.get_submodule(last).named_parameters()}
