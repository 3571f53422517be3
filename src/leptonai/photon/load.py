"""Load on an HTTP service, and what came back: closed loop (so many clients), or open loop (so many requests a second, whatever comes).

Plain sockets on the event loop and no HTTP library: a client that is slower than the service would measure itself.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..base.errors import InvalidInput, Unavailable

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    tls: bool
    request: bytes
    """One whole HTTP/1.1 request."""

    @classmethod
    def of(
        cls, url: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Target:
        """Raises InvalidInput for what is no http(s) URL, or for a header that would end the headers."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput("this is no URL of a service", received=url, expected="http://HOST:PORT/PATH")
        lines = {
            "host": parts.netloc.rpartition("@")[2],
            **{key.lower(): value for key, value in (headers or {}).items()},
        }
        if body or method not in ("GET", "HEAD"):
            lines["content-length"] = str(len(body))
        path = urllib.parse.quote(parts.path or "/", safe="/%:@") + (f"?{parts.query}" if parts.query else "")
        text = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
        if any(c in f"{key}{value}{method}" for key, value in lines.items() for c in "\r\n"):
            raise InvalidInput("a header cannot hold a line break", received=headers)
        tls = parts.scheme == "https"
        request = f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, request)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context() if self.tls else None
        try:
            return await asyncio.wait_for(asyncio.open_connection(self.host, self.port, ssl=context), 10)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"nothing answers at {self.host}:{self.port} ({error or 'no answer in 10 s'})") from None


@dataclass
class Load:
    """`latencies_s` of the answers with a status below 400, in order of their end; `statuses` of all; `ends` beside each latency."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    """Latencies of the answers 429."""

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, q: float) -> float:
        return quantile(self.latencies_s, q) * 1000

    def count(self, status: int | str, started: float, ended: float) -> None:
        self.statuses[status] += 1
        if isinstance(status, int) and status < 400:
            self.latencies_s.append(ended - started)
            self.ends.append(ended)
        elif status == 429:
            self.refused_s.append(ended - started)


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else float("nan")


async def closed(target: Target, concurrency: int, seconds: float, warm_s: float = 0.5) -> Load:
    """`concurrency` clients, each with one connection, each asking again when it is answered."""
    found = Load(seconds)
    connections = [await target.connect() for _ in range(concurrency)]
    begin = time.perf_counter() + warm_s
    end = begin + seconds

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (started := time.perf_counter()) < end:
            try:
                status, keep = await asyncio.wait_for(exchange(target, reader, writer), TIMEOUT_S)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                status, keep = type(error).__name__, False
            now = time.perf_counter()
            if started >= begin and now <= end:
                found.count(status, started, now)
            if not keep:
                writer.close()
                reader, writer = await target.connect()
        writer.close()

    await asyncio.gather(*(client(*one) for one in connections))
    return found


async def steady(target: Target, rate: float, seconds: float, connections: int = 256) -> Load:
    """`rate` requests a second at their due times (open loop). A latency counts from the due time, also of one that waited for a
    free connection."""
    found = Load(seconds)
    free: asyncio.Queue = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(None)
    began = time.perf_counter()

    async def one(due: float) -> None:
        pair = await free.get()
        try:
            pair = pair or await target.connect()
            status, keep = await asyncio.wait_for(exchange(target, *pair), TIMEOUT_S)
        except (OSError, EOFError, TimeoutError, ValueError, Unavailable) as error:
            status, keep = type(error).__name__, False
        if not keep and pair is not None:
            pair[1].close()
        free.put_nowait(pair if keep else None)
        found.count(status, due, time.perf_counter())

    tasks = set()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0.001:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    found.seconds = max(seconds, time.perf_counter() - began)
    return found


async def exchange(target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
    """One request: its status, and whether the connection can be used again. A body by length or in chunks is read to its end."""
    writer.write(target.request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    keep = b"connection: close" not in head
    _, length, rest = head.partition(b"content-length:")
    if length:
        await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    elif b"transfer-encoding: chunked" in head:
        while size := int((await reader.readline()).partition(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.read()
        keep = False
    return status, keep
