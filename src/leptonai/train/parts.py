"""The prepared models, optimizers and schedule of a run: what an optimizer step does, and how each part is kept and restored."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..base.errors import Conflict
from .ema import Average
from .optim import Schedule
from .precision import DTYPES, autocast_forward, device_type, plain_forward


class Parts:
    """`at_boundary()`: whether this batch completes an optimizer step. Each part is restored from `saved` as it is added."""

    def __init__(
        self,
        saved: Mapping[str, Any],
        at_boundary: Callable[[], bool],
        *,
        precision: str,
        accumulate: int,
        clip: float | None,
        ema: float | None,
    ):
        self._saved, self._at_boundary = saved, at_boundary
        self._dtype, self._accumulate, self._clip, self._decay = DTYPES[precision], accumulate, clip, ema
        self.models: list[torch.nn.Module] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[Any] = []
        self.schedule: Schedule | None = None
        self._averages: list[Average] = []
        self._scaler: torch.amp.GradScaler | None = None
        self._gradients_are_used = True
        self._inside_scaler = False

    @property
    def device_type(self) -> str:
        return device_type(self.models[0]) if self.models else "cpu"

    def add_model(self, model: torch.nn.Module) -> torch.nn.Module:
        if any(model is known for known in self.models):
            return model
        name = numbered("model", self.models)
        if name in self._saved:
            with restoring(name):
                model.load_state_dict(self._saved[name])
        self.models.append(model)
        if self._dtype is not None:
            autocast_forward(model, self._dtype)
        if self._dtype is torch.float16 and self._scaler is None:
            self._scaler = torch.amp.GradScaler(self.device_type)
            if "scaler" in self._saved:
                self._scaler.load_state_dict(self._saved["scaler"])
        if self._decay is not None:
            average = Average(model, self._decay)
            if name in self._saved:
                kept = self._saved[numbered("ema", self._averages)]
                average.load(kept["weights"], kept["count"])
            self._averages.append(average)
        return model

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        if any(optimizer is known for known in self.optimizers):
            return optimizer
        name = numbered("optimizer", self.optimizers)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if name in self._saved:
            check_options(name, optimizer, self._saved[name])
            with restoring(name):
                optimizer.load_state_dict(self._saved[name])
            match_layout(optimizer)
        self.optimizers.append(optimizer)
        if self._accumulate > 1 or self._clip is not None or self._scaler is not None or self._decay is not None:
            self._take_over(optimizer)
        return optimizer

    def add_scheduler(self, scheduler: Any) -> Any:
        """One of torch's schedulers, which the caller steps; under accumulation it counts optimizer steps."""
        name = numbered("scheduler", self.schedulers)
        if name in self._saved:
            scheduler.load_state_dict(self._saved[name])
        self.schedulers.append(scheduler)
        step = scheduler.step
        if self._accumulate > 1:
            scheduler.step = lambda *arguments: step(*arguments) if self._at_boundary() else None
        return scheduler

    def _take_over(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer.step()` do what belongs to a step, on the boundary only; `zero_grad()` waits for gradients to be used.

        Methods of the instance are replaced, not the object: schedulers and the caller keep the optimizer that they know.
        """
        step, zero_grad = optimizer.step, optimizer.zero_grad

        @functools.wraps(step)  # keeps the mark by which torch's schedulers know a step they count
        def whole_step(self_: torch.optim.Optimizer, *arguments: Any, **options: Any) -> Any:
            if self._inside_scaler:
                return step(*arguments, **options)
            return self._step(optimizer, step) if self._at_boundary() else None

        def zero_grad_if_used(self_: torch.optim.Optimizer, set_to_none: bool = True) -> None:
            if self._gradients_are_used:
                zero_grad(set_to_none)

        optimizer.step = types.MethodType(whole_step, optimizer)
        if self._accumulate > 1:
            optimizer.zero_grad = types.MethodType(zero_grad_if_used, optimizer)

    def backward(self, loss: torch.Tensor) -> None:
        self._gradients_are_used = False
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def _step(self, optimizer: torch.optim.Optimizer, step: Callable[[], Any]) -> None:
        is_last = optimizer is self.optimizers[-1]
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        if self._clip is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        if self._scaler is None:
            step()
        else:
            self._scaled_step(optimizer, is_last)
        if is_last:
            self._gradients_are_used = True
            for average in self._averages:
                average.update()

    def _scaled_step(self, optimizer: torch.optim.Optimizer, is_last: bool) -> None:
        self._inside_scaler = True  # the scaler calls optimizer.step() itself, unless a gradient overflowed
        try:
            self._scaler.step(optimizer)
        finally:
            self._inside_scaler = False
        if is_last:
            self._scaler.update()

    def set_learning_rate(self, progress: float) -> None:
        factor = self.schedule(progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def learning_rate(self) -> dict[str, float]:
        return {"learning_rate": float(self.optimizers[0].param_groups[0]["lr"])} if self.optimizers else {}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        with ExitStack() as stack:
            for average in self._averages:
                stack.enter_context(average.applied())
            yield

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of the parts."""
        parts: dict[str, Any] = {}
        for kind, objects in (("model", self.models), ("optimizer", self.optimizers), ("scheduler", self.schedulers)):
            for number, part in enumerate(objects):
                state = part.state_dict()
                # A scheduler's state is all its attributes, our `step` on the instance among them.
                parts[numbered(kind, objects[:number])] = {key: state[key] for key in state if key != "step"}
        for number, average in enumerate(self._averages):
            parts[numbered("ema", self._averages[:number])] = {"weights": average.tensors(), "count": average.count}
        if self._scaler is not None:
            parts["scaler"] = self._scaler.state_dict()
        return parts

    def release(self) -> None:
        """Give the models back as they were written: no autocast round their forward."""
        self._saved = {}
        for model in self.models:
            plain_forward(model)


def numbered(kind: str, before: list[Any]) -> str:
    return f"{kind}-{len(before)}" if before else kind


@contextmanager
def restoring(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise Conflict(
            f"the {name} is not the one that the checkpoint was made with: {' '.join(str(error).split())[:300]}",
            fix="Build the same one to continue the run, or give resume=False to begin a new run.",
        ) from None


def check_options(name: str, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Raise Conflict if a learning rate or decay was changed since the checkpoint, which would silently be the old one again."""
    for now, before in zip(optimizer.param_groups, saved["param_groups"], strict=False):
        for key in ("initial_lr", "weight_decay"):
            if now.get(key) != before.get(key):
                raise Conflict(
                    f"the {name} was begun with another {'learning rate' if key == 'initial_lr' else 'weight decay'}",
                    received=now.get(key),
                    expected=f"{before.get(key)}",
                    fix="Give the same one to continue the run, or resume=False to begin a new run.",
                )


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give restored state the memory layout of its parameter (channels last): fused kernels read both side by side."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, torch.Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
