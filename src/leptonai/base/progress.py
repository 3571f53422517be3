"""Progress for people: one live line on a terminal, a plain line every few seconds elsewhere. Costs a comparison per call."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

LIVE_S, PLAIN_S = 0.1, 5.0


class Progress:
    """`name  120/938 13%  loss 0.31  accuracy 0.905  410 steps/s  0:02 left  412 MB`.

    `total`: how many `unit`s there will be (None: unknown, then `seconds_total` may say how long it will take).
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        *,
        unit: str = "steps",
        done: int = 0,
        seconds_total: float | None = None,
        stream: TextIO | None = None,
    ):
        self.name, self.total, self.unit, self.seconds_total = name, total, unit, seconds_total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._every_s = LIVE_S if self._live else PLAIN_S
        self._began, self._first, self._width = time.monotonic(), done, 0
        self.due_at = self._began + self._every_s
        """The moment (time.monotonic) from which the next `show` prints; a hot loop compares with it before it calls."""

    def show(self, done: int, values: Mapping[str, float] | None = None, *, last: bool = False) -> None:
        """Print where things stand, if a line is due or it is the `last`."""
        now = time.monotonic()
        if now < self.due_at and not last:
            return
        self.due_at = now + self._every_s
        line = self.line(done, values or {}, now)
        if self._live:
            columns = shutil.get_terminal_size().columns - 1
            padded = line[:columns].ljust(min(self._width, columns))
            self._stream.write(f"\r{padded}" + ("\n" if last else ""))
            self._width = 0 if last else len(line[:columns])
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, sentence: str) -> None:
        """Print a sentence on a line of its own, above the live line."""
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(sentence + "\n")
        self._stream.flush()

    def line(self, done: int, values: Mapping[str, float], now: float) -> str:
        rate = (done - self._first) / max(now - self._began, 1e-9)
        parts = [f"{self.name}  {done:,}"]
        if self.total:
            parts[0] += f"/{self.total:,} {100 * done // self.total}%"
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        parts.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s")
        left = self._left_s(done, rate, now)
        if left is not None:
            parts.append(f"{clock(left)} left" if left >= 1 else f"{clock(now - self._began)} in all")
        memory = resident_bytes()
        if memory:
            parts.append(f"{memory / 1e6:,.0f} MB")
        return "  ".join(parts)

    def _left_s(self, done: int, rate: float, now: float) -> float | None:
        estimates = []
        if self.total and rate:
            estimates.append(max(0, self.total - done) / rate)
        if self.seconds_total is not None:
            estimates.append(max(0.0, self.seconds_total - (now - self._began)))
        return min(estimates, default=None)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def resident_bytes() -> int | None:
    """Memory that the process holds now; None where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
