"""Lengths of training, `5 epochs`, `1000 steps`, `60 seconds`, `90s`, `5m`, `1h`, and the clock that keeps to one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..base.errors import InvalidInput

Unit = Literal["epochs", "steps", "seconds"]

_UNITS: dict[str, tuple[Unit, float]] = {
    **dict.fromkeys(("epoch", "epochs"), ("epochs", 1)),
    **dict.fromkeys(("step", "steps"), ("steps", 1)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600)),
}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*\Z")


@dataclass(frozen=True)
class Span:
    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str | int | float | Span, bare: Unit = "steps") -> Span:
        """Read a length; a bare number counts `bare`. Raises InvalidInput if it is none, or not above 0."""
        if isinstance(text, Span):
            return text
        value, unit = None, bare
        if isinstance(text, int | float) and not isinstance(text, bool):
            value = float(text)
        elif isinstance(text, str) and (match := _SPAN.match(text.lower())) and match[2] in _UNITS:
            unit, scale = _UNITS[match[2]]
            value = float(match[1]) * scale
        if value is None or not 0 < value < float("inf") or (unit != "seconds" and value != int(value)):
            raise InvalidInput(
                "this is not a length of training",
                received=text,
                expected="'5 epochs', '1000 steps', '60 seconds' or '5m'",
            )
        return cls(value, unit)

    def steps(self, per_epoch: int) -> int | None:
        """Its number of steps; None if it is a time."""
        if self.unit == "seconds":
            return None
        return int(self.value) * (per_epoch if self.unit == "epochs" else 1)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


def seconds(text: str | int | float) -> float:
    """A time in seconds; a bare number is seconds."""
    span = Span.parse(text, bare="seconds")
    if span.unit != "seconds":
        raise InvalidInput("this is not a time", received=text, expected="'60 seconds', '5m' or '1h'")
    return span.value


class Clock:
    """The time that a run has taken, in all its processes, and how long one more step would take.

    `limit_s`: what it may take (None: any). `reserve_s`: what is left of that for the caller. `tick` reads the clock, once a step.
    """

    def __init__(self) -> None:
        self.earlier_s = self.reserve_s = self.save_s = 0.0
        self.limit_s: float | None = None
        self.now = self._began = time.monotonic()
        self._step_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return self.earlier_s + time.monotonic() - self._began

    def start(self, limits: Iterable[float | None]) -> None:
        """A loop begins, which the least of `limits` ends."""
        self.limit_s = min((limit for limit in limits if limit is not None), default=None)
        self.now, self._step_s = time.monotonic(), 0.0

    def tick(self) -> None:
        now = time.monotonic()
        self._step_s = max(now - self.now, 0.9 * self._step_s)  # as slow as the slowest of late
        self.now = now

    def is_late(self) -> bool:
        """Whether one more step and the last checkpoint would take longer than there is."""
        if self.limit_s is None:
            return False
        return self._ticked_s + self._step_s + self.save_s + self.reserve_s > self.limit_s

    def progress(self) -> float:
        """The share of the time that is used; 0 without a limit."""
        return 0.0 if self.limit_s is None else self._ticked_s / max(self.limit_s - self.reserve_s, 1e-9)

    @property
    def _ticked_s(self) -> float:
        return self.earlier_s + self.now - self._began
