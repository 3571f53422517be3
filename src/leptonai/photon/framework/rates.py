"""How often a handler may be called: a window of times per route."""

from __future__ import annotations

import time
from collections import deque

from .handler import parse_rate


class Rate:
    """At most `count` calls in any `window_s` seconds."""

    def __init__(self, text: str):
        self.count, self.window_s = parse_rate(text)
        self.times: deque[float] = deque()

    def wait_s(self) -> float:
        """0 and the call is counted, or the seconds until one is free."""
        now = time.monotonic()
        while self.times and self.times[0] <= now - self.window_s:
            self.times.popleft()
        if len(self.times) < self.count:
            self.times.append(now)
            return 0.0
        return self.times[0] + self.window_s - now
