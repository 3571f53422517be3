"""Early stopping: a metric that has not improved for `patience` measurements ends the loop. Its state is in the checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..base.errors import InvalidInput


@dataclass
class EarlyStop:
    """`mode`: whether `min` or `max` is better. `improved`: whether the last value was the best so far. NaN never improves."""

    metric: str
    patience: int
    mode: str
    best: float | None = None
    best_step: int = 0
    misses: int = 0
    improved: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise InvalidInput(
                "this is not a direction", received=self.mode, expected="'min' (a loss) or 'max' (an accuracy)"
            )
        if not isinstance(self.patience, int) or self.patience < 1:
            raise InvalidInput(
                "this is not a patience", received=self.patience, expected="a number of measurements, at least 1"
            )

    def see(self, value: float, step: int) -> None:
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        self.improved = better and not math.isnan(value)
        if self.improved:
            self.best, self.best_step, self.misses = value, step, 0
        else:
            self.misses += 1

    @property
    def exhausted(self) -> bool:
        return self.misses >= self.patience

    def reason(self) -> str:
        return f"{self.metric} has not improved for {self.patience} measurements; {self._best()}"

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def _best(self) -> str:
        return (
            "it was never a number" if self.best is None else f"its best was {self.best:.6g} at step {self.best_step}"
        )
