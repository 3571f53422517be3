"""A light load generator: one asyncio process, raw HTTP, prompts as token ids, streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class Timing:
    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        return (self.last_s - self.first_s) / max(1, self.tokens - 1)


@dataclass
class Load:
    """What a number of requests measured together."""

    timings: list[Timing] = field(default_factory=list)
    wall_s: float = 0.0

    def summary(self) -> dict:
        good = [one for one in self.timings if not one.error]
        if not good:
            return {"failed": len(self.timings), "error": self.timings[0].error if self.timings else "no requests"}
        tokens = sum(one.tokens for one in good)
        ttft = sorted(one.ttft_s for one in good)
        decode_s = max(one.last_s for one in good) - max(one.first_s for one in good)
        after = sum(max(0, one.tokens - 1) for one in good)
        return {
            "requests": len(good), "failed": len(self.timings) - len(good), "tokens": tokens, "tok_s": tokens / self.wall_s,
            "decode_tok_s": after / decode_s if decode_s > 0.05 else tokens / self.wall_s,
            "ttft_p50_ms": 1000 * statistics.median(ttft), "ttft_p99_ms": 1000 * ttft[min(len(ttft) - 1, int(len(ttft) * 0.99))],
            "ttft_min_ms": 1000 * ttft[0], "tpot_ms": 1000 * statistics.median(one.tpot_s for one in good),
        }  # fmt: skip


async def complete(port: int, prompt: list[int], max_tokens: int, key: str = "") -> Timing:
    """One streamed completion. Each event with text counts as the time of its tokens; the number asked for is what is counted."""
    body = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    data = json.dumps(body).encode()
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{authorization}connection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    timing = Timing(time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(head.encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            timing.error = (status + await reader.read(600)).decode("utf-8", "replace")
            return timing
        tail = b""
        while chunk := await reader.read(1 << 16):
            if b"data: {" in tail + chunk:
                now = time.perf_counter()
                timing.first_s = timing.first_s or now
                timing.last_s = now
            tail = (tail + chunk)[-64:]
        timing.tokens = max_tokens if b"[DONE]" in tail else 0
        timing.error = "" if timing.tokens else "the stream ended early"
    except OSError as error:
        timing.error = str(error)
    finally:
        writer.close()
    return timing


async def closed_loop(ask: Callable[[int], Awaitable[Timing]], concurrency: int, requests: int) -> Load:
    """`concurrency` clients, each asking again when answered, `requests` in all."""
    load, numbers = Load(), iter(range(requests))
    begin = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            load.timings.append(await ask(number))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.wall_s = time.perf_counter() - begin
    return load


async def open_loop(asks: Iterable[tuple[float, Callable[[], Awaitable[Timing]]]]) -> Load:
    """Ask at the given seconds, whatever the answers do."""
    load, begin = Load(), time.perf_counter()

    async def later(at: float, ask: Callable[[], Awaitable[Timing]]) -> None:
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - begin)))
        load.timings.append(await ask())

    await asyncio.gather(*(later(at, ask) for at, ask in asks))
    load.wall_s = time.perf_counter() - begin
    return load
