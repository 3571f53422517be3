"""Requests at a steady rate over kept connections, in a thread: how many were planned, sent, answered with what, how fast."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter


class Load:
    """`with Load(port, path, token, rate) as load: …`; afterwards `statuses`, `errors`, `latencies_s` say what was."""

    def __init__(self, port: int, path: str, token: str, rate: float, connections: int = 32, method: str = "POST"):
        body = b'{"x": 1}' if method == "POST" else b""
        self.request = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.port, self.rate, self.connections = port, rate, connections
        self.statuses: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.errors: list[str] = []
        self.failures: list[tuple[bytes, int]] = []
        """Body and status of every answer that is not below 500."""
        self.latencies_s: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Load:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self.seconds = time.monotonic() - self.began

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    async def _main(self) -> None:
        turns: asyncio.Queue[float] = asyncio.Queue()
        clients = [asyncio.create_task(self._client(turns)) for _ in range(self.connections)]
        due = time.monotonic()
        while not self._stop.is_set():
            due += 1 / self.rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            turns.put_nowait(time.monotonic())
        for _ in clients:
            turns.put_nowait(0.0)
        await asyncio.gather(*clients)

    async def _client(self, turns: asyncio.Queue[float]) -> None:
        reader = writer = None
        while (due := await turns.get()) > 0:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self.request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.statuses[int(head[9:12])] += 1
                self.bodies[body] += 1
                if int(head[9:12]) >= 500:
                    self.failures.append((body, int(head[9:12])))
                self.latencies_s.append((due, time.monotonic() - due))
                if b"connection: close" in head.lower():
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.errors.append(repr(error))
                if writer is not None:
                    writer.close()
                writer = None

    def p99_s(self, begin: float, end: float) -> float:
        found = sorted(latency for due, latency in self.latencies_s if begin <= due < end)
        return found[int(len(found) * 0.99)]
