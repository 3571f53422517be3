"""The little HTTP that the routes need, on bare ASGI: bounded bodies, JSON, server-sent events, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from ...base.errors import LeptonError
from .errors import ApiError, as_api_error, error_body

Scope = dict[str, Any]
encode = msgspec.json.Encoder().encode
JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"


class Disconnected(Exception):
    """The client is gone; nobody reads an answer."""


class Call:
    """One request and the way to answer it. `tenant` is set by who authenticates."""

    def __init__(self, scope: Scope, receive: Callable, send: Callable[[dict], Awaitable[None]]):
        self.scope, self.receive, self.send = scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method, self.path = scope["method"], scope["path"]
        self.tenant = ""
        self.status = 0

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")

    async def body(self, limit: int) -> bytes:
        with contextlib.suppress(ValueError):
            if int(self.header("content-length") or 0) > limit:
                raise ApiError(413, f"the body is larger than {limit:,} bytes", code="request_too_large")
        parts, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            if chunk := message.get("body"):
                size += len(chunk)
                if size > limit:
                    raise ApiError(413, f"the body is larger than {limit:,} bytes", code="request_too_large")
                parts.append(chunk)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def answer(self, value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] = JSON_HEADERS) -> None:
        body = value if isinstance(value, bytes) else encode(value)
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send({"type": "http.response.body", "body": body})

    async def fail(self, error: ApiError) -> None:
        extra = (
            [(b"retry-after", b"%d" % max(1, round(error.retry_after_s)))] if error.retry_after_s is not None else []
        )
        if error.status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        await self.answer(error_body(error), error.status, [*JSON_HEADERS, *extra])

    async def gone(self) -> None:
        """Return when the client has closed."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def while_connected(self, work: Awaitable[Any]) -> Any:
        """The result of `work`; if the client goes first, `work` is cancelled (which frees its tokens) and Disconnected is raised."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self.gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Disconnected
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, LeptonError):
                    await task

    async def stream(self, frames: AsyncIterator[bytes]) -> None:
        """Send frames of server-sent events as they come. An error before the first frame is a plain answer, after it an event."""
        await self.while_connected(self._stream(frames))

    async def _stream(self, frames: AsyncIterator[bytes]) -> None:
        send, started = self.send, False
        try:
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    if not started:
                        started = True
                        await self.start(200, SSE_HEADERS)
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        except LeptonError as error:
            if not started:
                raise
            await send(
                {"type": "http.response.body", "body": event(error_body(as_api_error(error))), "more_body": True}
            )
        await send({"type": "http.response.body", "body": b""})


def event(value: Any, name: str | None = None) -> bytes:
    data = b"data: " + encode(value) + b"\n\n"
    return data if name is None else b"event: " + name.encode() + b"\n" + data
