"""Networks that are not trained by gradient steps: they `fit` in one call. Owns their contract; their state is arrays, never a pickle."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Inputs = Mapping[str, "np.ndarray"]
Progress = Callable[[int, int, float], None]
"""Called with (rounds done, rounds at most, loss on validation)."""


class Learner(ABC):
    """Same raw outputs as a module: logits (n, classes) float32, or standardised values (n,) float64.

    A subclass takes its sizes and options as keyword arguments (what `nets.build` passes) and is thread-safe in `predict`.
    """

    kind: str
    config: dict[str, Any]

    @abstractmethod
    def fit(
        self,
        inputs: Inputs,
        target: np.ndarray,
        *,
        validation: tuple[Inputs, np.ndarray] | None = None,
        weights: np.ndarray | None = None,
        seed: int = 0,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Learn from n rows. `target`: (n,) int64 classes or standardised values; `weights`: (n,) of rows.

        `deadline` is in `time.monotonic()` seconds: by then it returns with the best it has. `validation` stops it early.
        """

    @abstractmethod
    def predict(self, inputs: Inputs) -> np.ndarray: ...

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """All that was learned, as arrays for `model.safetensors`."""

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None: ...


def seconds_left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
