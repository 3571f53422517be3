"""Networks that change their size while they train: channels and units chosen, doubled or dropped, blocks added.

A network says which of its parameters share a width (`groups`). One selection of units serves both directions: fewer indices
prune it, repeated ones widen it, and then it computes the same as before (Chen et al. 2016, Net2Net). What an optimizer knows of a
weight is carried over by the same selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# How unevenly the outgoing weight of a doubled unit is shared: equal halves would get equal gradients for ever.
UNEVEN = 0.2


@dataclass(frozen=True)
class Group:
    """Modules that share a width. `out`: their first axis is this width; `into`: (module, r), second axis is width × r.

    `even`: a norm runs over the units, so widening keeps the function only if each is repeated as often as the others.
    """

    name: str
    size: int
    out: tuple[str, ...]
    into: tuple[tuple[str, int], ...]
    even: bool = False


class Selection:
    """How each tensor of a network follows from the old one when `picks[group]` (indices of old units, in new order) is chosen."""

    def __init__(self, network: nn.Module, picks: Mapping[str, Tensor], generator: torch.Generator):
        self.rows: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self.shares: dict[str, Tensor] = {}
        parameters = dict(network.named_parameters())
        groups = {group.name: group for group in network.groups()}  # type: ignore[operator]
        for name, pick in picks.items():
            self.rows |= dict.fromkeys(groups[name].out, pick)
        for name, pick in picks.items():
            for module, repeat in groups[name].into:
                rows = len(self.rows.get(module, parameters[f"{module}.weight"]))
                self.columns[module] = _wide(pick, repeat)
                self.shares[module] = _shares(pick, rows, generator).repeat_interleave(repeat, 1)

    def carry(self, name: str, tensor: Tensor, power: int | None = None, fresh: Tensor | None = None) -> Tensor:
        """The new tensor of parameter or buffer `name`; `power`: 1 for a first moment of its gradient, 2 for a second moment.

        `fresh`: the tensor of a new network, which new units (−1) take their incoming weights from.
        """
        import torch

        module, _, leaf = name.rpartition(".")
        if tensor.ndim == 0:
            return tensor.clone()
        rest = [1] * (tensor.ndim - 1)
        new_rows = new_columns = None
        if module in self.rows:
            pick = self.rows[module]
            tensor, new_rows = tensor[pick.clamp(min=0)], pick < 0
            if power is not None:  # a doubled unit receives its share of the gradient
                tensor = tensor / _counts(pick).to(tensor.dtype).pow(power).view(-1, *rest)
        if module in self.columns and leaf == "weight" and tensor.ndim > 1:
            pick = self.columns[module]
            tensor, new_columns = tensor[:, pick.clamp(min=0)], pick < 0
            if power is None:
                shares = self.shares[module].to(tensor.dtype)
                tensor = tensor * shares.view(*shares.shape, *rest[1:])
        tensor = tensor.clone(memory_format=torch.preserve_format)
        if new_columns is not None:  # nothing listens to a new unit yet
            tensor[:, new_columns] = 0
        if new_rows is not None and new_rows.any():
            tensor[new_rows] = 0 if power is not None or fresh is None else fresh[new_rows].to(tensor.dtype)
        return tensor


def _wide(pick: Tensor, repeat: int) -> Tensor:
    """Columns of units that have `repeat` columns each."""
    import torch

    columns = pick[:, None] * repeat + torch.arange(repeat)
    return torch.where(pick[:, None] < 0, -1, columns).flatten()


def _counts(pick: Tensor) -> Tensor:
    """How often each chosen unit is chosen; 1 for a new one."""
    import torch

    return torch.where(
        pick < 0, 1, torch.bincount(pick.clamp(min=0))[pick.clamp(min=0)] - (pick < 0).sum() * (pick == 0)
    )


def _shares(pick: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """(rows, len(pick)): how the outgoing weight of each old unit is shared among its copies; they add up to 1."""
    import torch

    raw = 1 + UNEVEN * (2 * torch.rand(rows, len(pick), generator=generator) - 1)
    raw[:, pick < 0] = 0
    place = pick.clamp(min=0)
    total = torch.zeros(rows, int(place.max()) + 1).index_add_(1, place, raw)
    return torch.where(_counts(pick) > 1, raw / total[:, place], torch.ones_like(raw))


def resize(network: nn.Module, picks: Mapping[str, Tensor], optimizer: Any = None, seed: int = 0) -> None:
    """Give `network`, in place, the units that `picks` names of each group; groups that are not named stay whole.

    −1 is a new unit, which begins at random and which nothing listens to yet. The optimizer keeps what it knows. New and repeated
    units keep the function exactly (dropout aside); in an `even` group all units must be repeated alike.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    selection = Selection(network, picks, generator)
    sizes = {name: len(pick) for name, pick in picks.items()}
    _become(network, {**network.config, **resized_config(network, sizes)}, optimizer, selection, seed)


def deepen(network: nn.Module, options: Mapping[str, Any], optimizer: Any = None) -> None:
    """Give `network`, in place, the blocks that `options` (one of `network.deepened()`) adds; it computes the same."""
    _become(network, {**network.config, **options}, optimizer, None)


def resized_config(network: nn.Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The options of a network whose groups have these `sizes`: `widths.1` is the second of `widths`, `dense` is `dense`."""
    config: dict[str, Any] = {}
    for group in network.groups():  # type: ignore[operator]
        option, _, number = group.name.partition(".")
        size = sizes.get(group.name, group.size)
        if not number or option == "feed":  # `feed` is one number for all blocks
            config[option] = size
        else:
            config.setdefault(option, []).append(size)
    return config


def become(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Give `network`, in place, the shape of `config`; its weights are then fresh ones, to be loaded."""
    from .registry import build

    network.__dict__.update(build(network.kind, config).train(network.training).__dict__)


def _become(
    network: nn.Module, config: dict[str, Any], optimizer: Any, selection: Selection | None, seed: int = 0
) -> None:
    import torch

    from .registry import build

    old = dict(network.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in old.items()}
    # What is new is drawn from a stream of its own: it must not move the generators that the training draws from.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build(network.kind, config).train(network.training)
    fresh, state = built.state_dict(), dict(network.state_dict())
    if hasattr(built, "quieten"):
        built.quieten(fresh.keys() - state.keys())
    if selection is not None:
        state = {name: selection.carry(name, tensor, fresh=fresh.get(name)) for name, tensor in state.items()}
    built.load_state_dict(state, strict=False)
    layout = next((p for p in old.values() if p.ndim == 4), None)
    if layout is not None and layout.is_contiguous(memory_format=torch.channels_last):
        built.to(memory_format=torch.channels_last)
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    # The object stays: a run, a schedule and an autocast hold on to it.
    network.__dict__.update({name: value for name, value in built.__dict__.items()})
    if optimizer is not None:
        _move_optimizer(optimizer, old, dict(network.named_parameters()), selection)


def _move_optimizer(
    optimizer: Any, old: Mapping[str, Tensor], new: Mapping[str, Tensor], selection: Selection | None
) -> None:
    names = {id(parameter): name for name, parameter in old.items()}
    placed: set[str] = set()
    state: dict[Any, Any] = {}
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            name = names[id(parameter)]
            placed.add(name)
            kept.append(new[name])
            for key, value in optimizer.state.get(parameter, {}).items():
                state.setdefault(new[name], {})[key] = _moved(name, key, value, new[name], selection)
        group["params"] = kept
    for name, parameter in new.items():  # of new blocks: decayed as others of their shape are
        if name not in placed and parameter.requires_grad:
            matrices = [
                g for g in optimizer.param_groups if g["params"] and (g["params"][0].ndim > 1) == (parameter.ndim > 1)
            ]
            (matrices or optimizer.param_groups)[0]["params"].append(parameter)
    order = {id(parameter): place for place, parameter in enumerate(new.values())}
    for group in optimizer.param_groups:  # as a new optimizer would have them: a checkpoint knows them by place
        group["params"].sort(key=lambda parameter: order[id(parameter)])
    optimizer.state.clear()
    optimizer.state.update(state)
    if hasattr(optimizer, "_gathered"):
        optimizer._gathered = None


def _moved(name: str, key: str, value: Any, parameter: Tensor, selection: Selection | None) -> Any:
    """One value of an optimizer's state, in the memory layout of its new parameter: fused kernels read both side by side."""
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    moved = value if selection is None else selection.carry(name, value, 2 if key == "exp_avg_sq" else 1)
    return torch.empty_like(parameter, dtype=moved.dtype).copy_(moved)
