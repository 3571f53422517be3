"""How `lep up` ends: the first SIGTERM or SIGINT asks, the second forces, and nothing may take longer than the limit.

The work runs in a thread of its own, and the main thread does nothing but wait: Python runs signal handlers only there, so a
database that is locked or a thread that is joined cannot hold a signal up. Everything that the plane does may be cut off
between two lines, so leaving without asking is safe; it only costs the open calls.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

LIMIT_S = 8.0
"""From the first signal to the end, whatever hangs."""
log = logging.getLogger("lepton.server")


class Ending:
    """`asked` is set by the first signal; `when_asked` calls at that moment, or at once if it has come already."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._calls: list[Callable[[], None]] = []

    def when_asked(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        if self.asked.is_set():
            call()

    def ask(self) -> None:
        self.asked.set()
        for call in list(self._calls):
            call()


def run_until_asked(work: Callable[[Ending], None], *, force: Callable[[], None], limit_s: float = LIMIT_S) -> None:
    """Run `work` until it returns; it should soon after `ending.asked`. Raises what it raised. Only for the main thread.

    A second signal, or `limit_s` after the first, calls `force` and ends the process with 128 + the signal's number.
    """
    ending, over = Ending(), threading.Event()
    received: list[int] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(ending)
        except BaseException as error:
            failed.append(error)
        finally:
            over.set()

    def take(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            _leave(number, force, "a second signal came")
        ending.ask()

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        threading.Thread(target=run, name="plane", daemon=True).start()
        while not over.wait(0.5):  # a signal does not cut a wait short
            if received and not over.wait(limit_s):
                _leave(received[0], force, f"it did not end within {limit_s:g} s")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise failed[0]


def _leave(number: int, force: Callable[[], None], why: str) -> None:
    log.warning("leaving at once: %s", why)
    try:
        force()
    finally:
        os._exit(128 + number)
