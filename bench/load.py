"""Load for bench/gateway.py, light enough to share a core with what it measures: plain sockets, one `select`, no event loop.

`steady`: requests at their due times whatever the answers do (open loop); a latency counts from the moment the request was due, so an
answer that comes late also makes those behind it late (no coordinated omission). `ages`: how old the parts of a stream are on arrival.
"""

from __future__ import annotations

import ctypes
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Steady:
    """`latencies_s`: of the answers that came; `own_cpu_s`: what the client itself used; `late_s`: how late it was itself."""

    planned: int
    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    own_cpu_s: float = 0.0


def request(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n".encode()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def steady(port: int, one: bytes, rate: float, seconds: float, connections: int = 16) -> Steady:
    """Send `rate` requests a second on whichever connection is free; those that find none wait in line, and that counts."""
    ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)  # PR_SET_TIMERSLACK: wake within a microsecond, not within fifty
    free = deque(connect(port) for _ in range(connections))
    opened = list(free)
    busy: dict[socket.socket, float] = {}
    found = Steady(int(rate * seconds))
    waiting: deque[float] = deque()
    began, cpu = time.perf_counter() + 0.01, time.process_time()
    issued, end = 0, began + seconds + 2.0
    try:
        while len(found.latencies_s) < found.planned and (now := time.perf_counter()) < end:
            while issued < found.planned and began + issued / rate <= now:
                waiting.append(began + issued / rate)
                issued += 1
            while waiting and free:
                connection, due = free.popleft(), waiting.popleft()
                connection.send(one)
                found.late_s.append(time.perf_counter() - due)
                busy[connection] = due
            until = began + issued / rate if issued < found.planned else end
            ready, _, _ = select.select(list(busy), [], [], max(0.0, until - time.perf_counter()))
            for connection in ready:
                read_answer(connection)
                found.latencies_s.append(time.perf_counter() - busy.pop(connection))
                free.append(connection)
    finally:
        for connection in opened:
            connection.close()
    found.own_cpu_s = time.process_time() - cpu
    return found


def read_answer(connection: socket.socket) -> None:
    """One whole answer: of a length, or in chunks (which a proxy may make of it)."""
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"an answer is not 200: {data[:200]!r}")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    while (len(body) < int(length)) if length else not body.endswith(b"0\r\n\r\n"):
        body += _more(connection)


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise SystemExit("the server closed a connection")
    return part


def ages(port: int, one: bytes, parts: int) -> list[float]:
    """Seconds from the moment a part was sent, which it carries (`time.CLOCK_MONOTONIC`), to its arrival here."""
    found: list[float] = []
    with connect(port) as connection:
        connection.sendall(one)
        data = b""
        while b"\r\n\r\n" not in data:
            data += _more(connection)
        data = data.partition(b"\r\n\r\n")[2]
        while len(found) < parts:
            now = time.clock_gettime(time.CLOCK_MONOTONIC)
            while (
                b"\r\n" in data
                and len(rest := data.partition(b"\r\n")[2]) >= (size := int(data.partition(b"\r\n")[0], 16)) + 2
            ):
                found += [now - float(sent) for sent in rest[:size].split()]
                data = rest[size + 2 :]
            if len(found) < parts:
                data += _more(connection)
    return found
