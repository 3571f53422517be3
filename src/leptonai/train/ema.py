"""A running average of the weights (Polyak and Juditsky 1992), kept beside them and put in their place on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Average:
    """`decay` grows to its value with the steps, min(decay, (1 + t) / (10 + t)), so that the start is forgotten soon.

    Parameters and floating-point buffers (running statistics) are averaged; whole numbers are left as the model has them.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay, self.count = decay, 0
        self.live = {
            name: value for name, value in model.state_dict(keep_vars=True).items() if value.is_floating_point()
        }
        self._live = [value.detach() for value in self.live.values()]
        self._shadow = [value.clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self._shadow, self._live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        kept = [value.clone() for value in self._live]
        torch._foreach_copy_(self._live, self._shadow)
        torch._foreach_copy_(self._shadow, kept)

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.live, self._shadow, strict=True))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], count: int) -> None:
        self.count = count
        for name, shadow in zip(self.live, self._shadow, strict=True):
            shadow.copy_(tensors[name])
