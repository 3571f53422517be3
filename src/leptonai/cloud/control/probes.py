"""Whether a replica answers on its port, and for how long one that did has not. Asked in threads of its own, so that one that hangs holds up nobody else."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

CONNECT_S, ANSWER_S = 0.5, 3.0
EVERY_S = 0.1
ALIVE_EVERY_S, FAILURES = 2.0, 3
"""Of one that took requests: how often it is asked, and how many answers in a row must be missing."""


@dataclass
class _Alive:
    answered_at: float
    asked_at: float = 0.0
    failures: int = 0
    running: Future[bool] | None = None


class Probes:
    """`answers(key, port)`: what the last probe found; asks again, in the background, at most ten times a second."""

    def __init__(self, threads: int = 16):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="probe")
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[float, Future[bool]]] = {}
        self._alive: dict[str, _Alive] = {}

    def answers(self, key: str, port: int) -> bool:
        with self._lock:
            at, running = self._asked.get(key, (0.0, None))
            if running is not None and running.done() and running.result():
                return True
            if running is None or (running.done() and time.monotonic() - at >= EVERY_S):
                self._asked[key] = time.monotonic(), self._pool.submit(answers, "127.0.0.1", port)
            return False

    def silent_s(self, key: str, port: int) -> float:
        """For how long one that was ready has not answered; 0 until three probes in a row have failed. Asks again in the background."""
        now = time.monotonic()
        with self._lock:
            seen = self._alive.setdefault(key, _Alive(now))
            if seen.running is not None and seen.running.done():
                seen.failures = 0 if seen.running.result() else seen.failures + 1
                seen.answered_at = seen.asked_at if not seen.failures else seen.answered_at
                seen.running = None
            if seen.running is None and now - seen.asked_at >= ALIVE_EVERY_S:
                seen.asked_at, seen.running = now, self._pool.submit(answers, "127.0.0.1", port)
            return now - seen.answered_at if seen.failures >= FAILURES else 0.0

    def forget(self, key: str) -> None:
        with self._lock:
            self._asked.pop(key, None)
            self._alive.pop(key, None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def answers(host: str, port: int) -> bool:
    """Any HTTP answer below 500 to GET /healthz is one, also 404: most commands have no such route. What speaks first, or
    speaks something else, is ready when it takes connections; what takes them and stays silent is not."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError:
        return False
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/healthz", headers={"connection": "close", "user-agent": "lepton-probe"})
        return connection.getresponse().status < 500
    except (http.client.BadStatusLine, http.client.LineTooLong) as error:
        # A connection that ends without a byte is a server that is failing; other bytes are another protocol.
        return not isinstance(error, http.client.RemoteDisconnected)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
