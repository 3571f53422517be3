"""One connection's HTTP on uvicorn's httptools: a deadline and a bound for headers, and refusals that cost almost nothing.

While more waits than will be answered in time, POST requests that ask for predictions are answered 429 from their headers alone:
without a task, without their body being kept, so that turning clients away does not take the time in which others are answered.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS = 2048
HEADERS_TIMEOUT_S = 5.0
MAX_HEADERS_BYTES = 64 * 1024


def guarded(refusal: Callable[[bytes, list[tuple[bytes, bytes]]], bytes | None]) -> type[HttpToolsProtocol]:
    """A protocol class. `refusal(path, headers)`: a whole answer for a POST that is to be turned away now, or None."""

    class Guarded(GuardedProtocol):
        pass

    Guarded.refusal = staticmethod(refusal)
    return Guarded


class GuardedProtocol(HttpToolsProtocol):
    refusal: Callable[[bytes, list[tuple[bytes, bytes]]], bytes | None] = staticmethod(lambda path, headers: None)

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._header_bytes, self._in_headers, self._skipping = 0, False, False
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(HEADERS_TIMEOUT_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_headers:  # rarely: most requests come with all their headers in one piece
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADERS_BYTES:
                self.transport.close()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEADERS_TIMEOUT_S, self.transport.close)

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._header_bytes, self._in_headers = 0, False
        self._end_deadline()
        # Only the connection's next answer may be written here: not while an earlier request still has to be answered.
        idle = (self.cycle is None or self.cycle.response_complete) and not self.pipeline
        if idle and self.parser.get_method() == b"POST":
            answer = self.refusal(self.url, self.headers)
            if answer is not None:
                self._skipping = True
                self._unset_keepalive_if_required()
                self.transport.write(answer)
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._skipping:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
            if not self.parser.should_keep_alive():
                self.transport.close()
            return
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def websockets_kind() -> str:
    """Which implementation uvicorn has for WebSockets; "none" where the package is not installed."""
    return "websockets-sansio" if importlib.util.find_spec("websockets") else "none"
