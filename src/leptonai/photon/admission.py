"""How long a batch takes, learned from those before: t(n) = a + b·n. Owns the estimate that lets a request in or turns it away."""

from __future__ import annotations

import threading

KEPT = 0.98
"""Weight of the batches before at each new one: about the last fifty count."""


class Cost:
    """Weighted least squares on (rows, seconds), both coefficients ≥ 0. Fed by every replica, asked by the event loop."""

    def __init__(self) -> None:
        self.fixed_s = self.row_s = 0.0
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        self._lock = threading.Lock()

    def observe(self, rows: int, seconds: float) -> None:
        """Count a batch. A stall (a page fault, a first call) counts as four times what was expected, so it turns nobody away."""
        with self._lock:
            expected = self.fixed_s + self.row_s * rows
            if self._weight >= 3 and expected > 0:
                seconds = min(seconds, 4 * expected + 0.001)
            self._weight = KEPT * self._weight + 1
            self._n = KEPT * self._n + rows
            self._t = KEPT * self._t + seconds
            self._nn = KEPT * self._nn + rows * rows
            self._nt = KEPT * self._nt + rows * seconds
            self._fit()

    def _fit(self) -> None:
        spread = self._weight * self._nn - self._n * self._n
        slope = (
            (self._weight * self._nt - self._n * self._t) / spread if spread > 1e-6 * self._weight * self._nn else -1.0
        )
        if slope < 0:  # batches of one size, or noise: all of it is the rows'
            self.fixed_s, self.row_s = 0.0, self._t / self._n
            return
        fixed = (self._t - slope * self._n) / self._weight
        if fixed < 0:
            fixed, slope = 0.0, self._nt / self._nn
        self.fixed_s, self.row_s = fixed, slope

    def batch_s(self, rows: int) -> float:
        """Seconds for one batch of so many rows."""
        return self.fixed_s + self.row_s * rows

    def rows_within(self, seconds: float) -> int:
        """How many rows a batch may have to end within `seconds`; at least one."""
        if self.row_s <= 0 or self._weight < 2.5:  # two batches say little of a third
            return 1 << 30
        return max(1, int((seconds - self.fixed_s) / self.row_s))
