"""What a run measures, from `run.log` to the trackers. Tensors are kept as they are and read together, so logging waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch

from ..base.errors import InvalidInput
from .stopping import EarlyStop
from .trackers import Tracker

EVERY_STEPS = 50


class Journal:
    """`last`: the newest mean of each value. `is_full`: a line is due; at every 50th step, so a resumed run writes the same lines.

    `stops`: early stopping by metric. `open_trackers()` is called at the first line.
    """

    def __init__(self, open_trackers: Callable[[], list[Tracker]]):
        self.last: dict[str, float] = {}
        self.stops: dict[str, EarlyStop] = {}
        self.is_full = False
        self._open_trackers = open_trackers
        self._trackers: list[Tracker] | None = None
        self._held: dict[str, list[Any]] = {}
        self._at: dict[str, tuple[int, int]] = {}

    def add(self, step: int, epoch: int, values: Mapping[str, Any]) -> str | None:
        """Note values; the reason to stop, if one of them gives it."""
        at = (step, epoch)
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            held = self._held.get(name)
            if held is None:
                self._held[name] = [value]
            else:
                held.append(value)
            self._at[name] = at
        self.is_full = step % EVERY_STEPS == 0
        return self._watch(step, values) if self.stops else None

    def _watch(self, step: int, values: Mapping[str, Any]) -> str | None:
        reason = None
        for name, stop in self.stops.items():
            if name in values:
                stop.see(float(values[name]), step)
                reason = stop.reason() if stop.exhausted else reason
        return reason

    def flush(self, about: Mapping[str, float]) -> None:
        """Write a line for each step at which something was last logged: the means of what was held, and `about`."""
        lines: dict[tuple[int, int], dict[str, float]] = {}
        all_held, at = self._held, self._at
        self._held, self._at, self.is_full = {}, {}, False
        for name, held in all_held.items():
            self.last[name] = lines.setdefault(at[name], {})[name] = mean(name, held)
        for (step, epoch), values in sorted(lines.items()):
            for tracker in self._opened():
                tracker.write(step, {**values, "epoch": epoch, **about})

    def sync(self) -> None:
        for tracker in self._opened():
            tracker.sync()

    def close(self) -> None:
        for tracker in self._trackers or ():
            tracker.close()
        self._trackers = None

    def shown(self) -> dict[str, float]:
        """The few values that fit on a line of progress."""
        return dict(islice(self.last.items(), 4))

    def _opened(self) -> list[Tracker]:
        if self._trackers is None:
            self._trackers = self._open_trackers()
        return self._trackers


def mean(name: str, held: list[Any]) -> float:
    try:
        tensors = [value.reshape(()) for value in held if isinstance(value, torch.Tensor)]
        numbers = [float(value) for value in held if not isinstance(value, torch.Tensor)]
    except (TypeError, ValueError, RuntimeError):
        wrong = held[-1].shape if isinstance(held[-1], torch.Tensor) else held[-1]
        raise InvalidInput(
            f"{name!r} cannot be logged", received=wrong, expected="a number, or a tensor of one number"
        ) from None
    total = float(torch.stack(tensors).double().sum()) if tensors else 0.0
    return (total + sum(numbers)) / len(held)
