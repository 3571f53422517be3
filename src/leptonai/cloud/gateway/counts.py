"""What a worker counts: requests, errors and latencies of a revision, of a caller, and of the last minute. Counts only grow."""

from __future__ import annotations

from bisect import bisect_left

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper ends of the latency histogram: time from the request's head to the answer's head."""


class Stats:
    """Facts about one revision since this worker started."""

    __slots__ = ("bytes_in", "bytes_out", "counted", "errors", "histogram", "latency_s", "requests", "statuses")

    def __init__(self) -> None:
        self.requests = self.errors = self.counted = self.bytes_in = self.bytes_out = 0
        self.latency_s = 0.0
        self.statuses = [0] * 6
        self.histogram = [0] * (len(BUCKETS_S) + 1)

    def add(self, status: int, latency_s: float, bytes_in: int, bytes_out: int, counted: bool) -> None:
        self.requests += 1
        self.counted += counted
        self.statuses[status // 100 if status < 600 else 5] += 1
        self.errors += status >= 500
        self.latency_s += latency_s
        self.histogram[bisect_left(BUCKETS_S, latency_s)] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class CallerStats:
    """Facts about one token or key at one endpoint; all callers without one share a line. `limited`: sent away with 429."""

    __slots__ = ("bytes_in", "bytes_out", "errors", "limited", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.limited = self.bytes_in = self.bytes_out = 0

    def add(self, status: int, bytes_in: int, bytes_out: int) -> None:
        self.requests += 1
        self.errors += status >= 500
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class Minute:
    """How many events the last minute had, to within five seconds."""

    __slots__ = ("_counts", "_slot")
    SLOTS, SLOT_S = 12, 5.0

    def __init__(self) -> None:
        self._counts, self._slot = [0] * self.SLOTS, 0

    def add(self, now: float) -> None:
        self._turn(now)
        self._counts[self._slot % self.SLOTS] += 1

    def total(self, now: float) -> int:
        self._turn(now)
        return sum(self._counts)

    def _turn(self, now: float) -> None:
        slot = int(now / self.SLOT_S)
        if slot != self._slot:
            for passed in range(max(self._slot + 1, slot - self.SLOTS + 1), slot + 1):
                self._counts[passed % self.SLOTS] = 0
            self._slot = slot
