"""Logged values between two lines. Tensors are kept as they are and read together, so logging waits for no computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from ..base.errors import InvalidInput

EVERY_STEPS = 50


class MetricBuffer:
    """`last`: the newest mean of each value. `is_full`: a line is due; every 50th step, so that a resumed run writes the same lines."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.is_full = False
        self._held: dict[str, list[Any]] = {}
        self._at: dict[str, tuple[int, int]] = {}

    def add(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            held = self._held.get(name)
            if held is None:
                self._held[name] = [value]
            else:
                held.append(value)
            self._at[name] = (step, epoch)
        self.is_full = step % EVERY_STEPS == 0

    def flush(self) -> Iterator[tuple[int, int, dict[str, float]]]:
        """(step, epoch, means of what was held) for each step at which something was last logged, in order."""
        lines: dict[tuple[int, int], dict[str, float]] = {}
        for name, held in self._held.items():
            self.last[name] = lines.setdefault(self._at[name], {})[name] = mean(name, held)
        self._held, self._at, self.is_full = {}, {}, False
        for (step, epoch), values in sorted(lines.items()):
            yield step, epoch, values

    def shown(self) -> dict[str, float]:
        """The few that fit on a line."""
        return dict(islice(self.last.items(), 4))


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
