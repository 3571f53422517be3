"""SIGTERM and SIGINT while a loop runs: noted, not obeyed at once, so that the loop can save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

EXITS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT"}


class Signals:
    """`received`: the signal's number, or 0. A second SIGINT interrupts at once. Outside the main thread it notices nothing."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in EXITS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        self.received = number
