"""Live traffic for the demo: clients that keep asking, and what they got."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...base.errors import Unavailable


@contextmanager
def client(service: Any) -> Iterator[Any]:
    from ...client.client import Client

    with Client(service.url) as connected:
        yield connected


@contextmanager
def traffic(lep: Any, rows: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Two clients that keep asking until the block ends; what they got, answer or exception, is in the list."""
    seen: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for row in rows:
                try:
                    seen.append(lep.predict(row))
                except Exception as error:  # any failure counts
                    seen.append(error)
                if stop.is_set():
                    break

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"no {what} within {timeout_s:.0f} s")
        time.sleep(0.01)


def free_port(port: int) -> int:
    """`port` if nothing listens there, else 0: any free one."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
