"""Adaptive networks: training begins small and grows when it stops getting better, without forgetting; what is idle goes.

Early steps, which a small network learns as well, cost a fraction; each growth keeps the function and the optimizer's state
(Chen et al. 2016; Wei et al. 2016, network morphism).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from ...base.errors import InvalidInput
from ..fields import Count, Part, Share
from .method import Context, Method, count
from .prune import check_resizable, most_important

if TYPE_CHECKING:
    import torch


class Adapt(Part):
    start: Share = Field(default=0.25, gt=0)
    """The width at the beginning, as a share of the recipe's network, which is the largest that it may become."""
    gain: Share = 0.01
    """Growth is due when an epoch lowered the validation loss by less than this share."""
    by: Share = Field(default=0.5, gt=0)
    """Share of the training by which the full width is reached, stalled or not: the last steps are worth most there."""
    deepen: Count | None = None
    """Residual blocks to add once the full width is reached."""
    shrink: Share = 0.0
    """At the last tenth of the training, units below this share of their layer's mean importance go."""

    def make(self) -> Method:
        return AdaptMethod(self)


class AdaptMethod(Method):
    name = "adapt"

    def __init__(self, options: Adapt):
        self.options_ = options

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        check_resizable(network, self.name)
        if context.plan.recipe.train.ema:
            raise InvalidInput(
                "`method.adapt` changes the weights' shapes", received="`train.ema`", fix="Leave `train.ema` out."
            )
        self.largest = {group.name: group.size for group in network.groups()}
        self.full_cost = cost(network, context)
        run = context.run
        state = run.state.setdefault("adapt", {"config": None, "history": [], "last": None, "done": 0.0, "deepened": 0})
        if state["config"] is None:
            self._start_small(network)
            state["config"], state["doublings"] = dict(network.config), max(1, self._missing(network))
            self._note(state, 0, network, context)
        else:
            from ...nets.resize import become

            become(network, state["config"])
        self.cost = cost(network, context)

    def _start_small(self, network: torch.nn.Module) -> None:
        import torch

        from ...nets.resize import resize

        picks = {}
        for group in network.groups():
            size = max(1, round(group.size * self.options_.start))
            if group.even:  # it grows by doubling only
                size = group.size
                while size % 2 == 0 and size / 2 >= group.size * self.options_.start:
                    size //= 2
            picks[group.name] = torch.arange(size)
        resize(network, picks)

    def after_epoch(self, network: torch.nn.Module, optimizer: Any, context: Context) -> None:
        run = context.run
        state = run.state["adapt"]
        state["done"] += self.cost * run.batches_per_epoch
        loss = run.metrics.get("validation.loss")
        last, state["last"] = state["last"], loss
        stalled = loss is None or (last is not None and loss > last * (1 - self.options_.gain))
        left = 1 - run.progress
        missing = self._missing(network)
        half_epoch = 0.5 * run.progress / max(1, run.epoch + 1)
        late = missing and run.progress + half_epoch >= self.options_.by * (1 - (missing - 1) / state["doublings"])
        if missing and (stalled or late):
            self._widen(network, optimizer, run.step)
        elif stalled and not missing and state["deepened"] < (self.options_.deepen or 0) and left > 0.2:
            self._deepen(network, optimizer, state)
        elif self.options_.shrink and left <= 0.1 and not state.get("shrunk"):
            self._shrink(network, optimizer)
            state["shrunk"] = True
        else:
            return
        state["config"], state["last"] = dict(network.config), None
        self.cost = cost(network, context)
        self._note(state, run.step, network, context)

    def _missing(self, network: torch.nn.Module) -> int:
        """Doublings until the full width."""
        sizes = {group.name: group.size for group in network.groups()}
        return max(int(np.ceil(np.log2(self.largest[name] / size) - 1e-9)) for name, size in sizes.items())

    def _widen(self, network: torch.nn.Module, optimizer: Any, seed: int) -> None:
        import torch

        from ...nets.resize import resize

        picks = {}
        for group in network.groups():
            size = min(2 * group.size, self.largest[group.name])
            if (
                size > group.size
            ):  # new units see more than copies do; under a norm over units only copies keep the function
                units = torch.arange(size)
                picks[group.name] = units % group.size if group.even else units.where(units < group.size, -1)
        resize(network, picks, optimizer, seed)

    def _deepen(self, network: torch.nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        from ...nets.resize import deepen

        choices = getattr(network, "deepened", list)()
        if choices:
            deepen(network, choices[-1 - state["deepened"] % len(choices)], optimizer)
        state["deepened"] += 1

    def _shrink(self, network: torch.nn.Module, optimizer: Any) -> None:
        from ...nets.resize import resize
        from .prune import importance

        picks = {}
        for group in network.groups():
            weight = importance(network, group)
            keep = int((weight >= self.options_.shrink * weight.mean()).sum())
            if keep < group.size and not group.even:
                picks[group.name] = most_important(network, group, 1 - keep / group.size)
        if picks:
            resize(network, picks, optimizer)

    def _note(self, state: dict[str, Any], step: int, network: torch.nn.Module, context: Context) -> None:
        sizes = {group.name: group.size for group in network.groups()}
        state["history"].append({"step": step, "parameters": count(network), "sizes": sizes})
        if step:
            context.run.record.event(f"the network changed its size at step {step}: {count(network):,} parameters")

    def end(self, network: torch.nn.Module, context: Context) -> None:
        state = context.run.state["adapt"]
        whole = self.full_cost * context.run.epoch * context.run.batches_per_epoch
        self.found = {
            "history": state["history"],
            "compute_share": round(state["done"] / whole, 4) if whole else None,
            "parameters": count(network),
        }

    def facts(self) -> dict[str, Any]:
        return self.found


def cost(network: torch.nn.Module, context: Context) -> float:
    """Multiplications of one row's forward pass, in convolutions and linear layers."""
    import torch
    from torch import nn

    total = 0

    def add(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        per_output = module.weight[0].numel()
        cells = output[0, 0].numel() if isinstance(module, nn.Conv2d) else output[0].numel() // module.out_features
        total += module.weight.shape[0] * per_output * cells

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    inputs = context.task.encode(context.columns, context.plan.parts["train"][:1]).inputs
    training = network.training
    network.eval()
    with torch.no_grad():
        network(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()})
    network.train(training)
    for hook in hooks:
        hook.remove()
    return float(total)
