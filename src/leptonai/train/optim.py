"""Optimizers by name, and learning-rate schedules as pure functions of how much of the training is done.

A schedule has no state: the factor at step k of n is computed from k/n, so a resumed run cannot be a step off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..base.errors import InvalidInput, did_you_mean
from .adamw import AdamW
from .muon import Muon

Schedule = Callable[[float], float]
"""Progress in [0, 1] → factor of the learning rate, in [0, 1]."""

OPTIMIZERS = ("adamw", "sgd", "muon")


def make_optimizer(
    model: torch.nn.Module,
    name: str = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    momentum: float = 0.9,
    regroup: Sequence[Callable[[torch.nn.Module, list[dict[str, Any]]], list[dict[str, Any]]]] = (),
) -> torch.optim.Optimizer:
    """An optimizer over `model`'s trainable parameters; biases, norms and embeddings are not decayed.

    `adamw`: Loshchilov and Hutter 2019, the fused kernel. `sgd`: Nesterov momentum. `muon`: Jordan et al. 2024 for hidden
    matrices, AdamW for the rest. `momentum` is SGD's and Muon's; AdamW's betas are 0.9 and 0.999. `regroup`: functions that split
    the groups (params, weight_decay, lr), for learning rates of their own; not with muon.
    """
    if name not in OPTIMIZERS:
        raise InvalidInput("there is no such optimizer", received=name, fix=did_you_mean(str(name), OPTIMIZERS))
    check_positive("learning rate", learning_rate)
    check_positive("weight decay", weight_decay, zero=True)
    decayed, plain = split_parameters(model)
    if not decayed and not plain:
        raise InvalidInput("the model has no parameter that can be trained", received=type(model).__name__)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [{**group, "lr": learning_rate} for group in groups if group["params"]]
    for split in regroup:
        groups = split(model, groups)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, foreach=True)
    if name == "muon":
        # The last matrix maps to the outputs, where Muon does worse than AdamW (Jordan et al. 2024).
        others = [{"params": decayed[-1:], "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return Muon(decayed[:-1], others, lr=learning_rate, weight_decay=weight_decay, momentum=momentum)
    if all(parameter.is_floating_point() for parameter in (*decayed, *plain)):
        return AdamW(groups, lr=learning_rate)
    return torch.optim.AdamW(groups, lr=learning_rate)


def split_parameters(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Trainable parameters that are decayed, and those that are not: all of one dimension, and embeddings."""
    embeddings = {
        id(p)
        for m in model.modules()
        if isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for p in m.parameters()
    }
    decayed, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    return decayed, plain


def make_schedule(
    name: str = "cosine", warmup: float = 0.0, *, final: float = 0.0, milestones: tuple[float, ...] = (0.5, 0.75)
) -> Schedule:
    """`constant`, `linear`, `cosine` (Loshchilov and Hutter 2017), `onecycle` (Smith and Topin 2018) or `step` (×0.1 at `milestones`).

    `warmup`: the share of the training over which the factor rises in a line from 0 (onecycle: by half a cosine from 0.04, over a quarter if not given);
    `final`: the factor at the end of linear, cosine and onecycle.
    """
    if name not in SCHEDULES:
        raise InvalidInput("there is no such schedule", received=name, fix=did_you_mean(str(name), SCHEDULES))
    if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
        raise InvalidInput(
            "this is not a warm-up", received=warmup, expected="the share of training it takes, from 0 to below 1"
        )
    if name == "onecycle":
        warmup = warmup or 0.25
    shape = SCHEDULES[name]

    def schedule(progress: float) -> float:
        progress = min(1.0, max(0.0, progress))
        if progress < warmup:
            rise = progress / warmup
            return _between(0.04, 1.0, 1 - rise) if name == "onecycle" else rise
        return shape((progress - warmup) / (1 - warmup), final, tuple((m - warmup) / (1 - warmup) for m in milestones))

    return schedule


def _between(low: float, high: float, done: float) -> float:
    """Half a cosine from `high` (done = 0) to `low` (done = 1)."""
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[float, float, tuple[float, ...]], float]] = {
    "constant": lambda done, final, milestones: 1.0,
    "linear": lambda done, final, milestones: 1 - (1 - final) * done,
    "cosine": lambda done, final, milestones: _between(final, 1.0, done),
    "onecycle": lambda done, final, milestones: _between(final, 1.0, done),
    "step": lambda done, final, milestones: 0.1 ** sum(done >= milestone for milestone in milestones),
}


def check_positive(what: str, value: Any, zero: bool = False) -> None:
    good = isinstance(value, int | float) and math.isfinite(value) and (value > 0 or (zero and value == 0))
    if not good:
        raise InvalidInput(
            f"this is not a {what}", received=value, expected="a number " + ("of at least 0" if zero else "above 0")
        )
