"""A client's connection: reads requests one after the other, streams their bodies on, writes answers. Owns its deadlines."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from .bodies import Chunked
from .heads import MAX_HEAD_BYTES, BadMessage, RequestHead, parse_request

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway

HEAD_S = 10.0
"""For the whole head, from its first byte."""
IDLE_S = 75.0
STALL_S = 30.0
"""Without a byte of a body that is announced, or without a byte of an answer taken."""
LINGER_S = 2.0
"""How long what a client still sends is thrown away after an early answer, so that it can read that answer."""
_HEAD, _BODY, _WAIT, _TUNNEL, _CLOSING = range(5)
_REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


class Front(asyncio.Protocol):
    __slots__ = (
        "_buffer",
        "_chunks",
        "_close_after",
        "_left",
        "_paused",
        "_state",
        "_write_blocked",
        "exchange",
        "gateway",
        "peer",
        "scheme",
        "transport",
        "until",
    )

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.peer, self.scheme = "", b"http"
        self.exchange: Exchange | None = None
        self._state, self._buffer = _HEAD, b""
        self._left = 0
        self._chunks: Chunked | None = None
        self._close_after = False
        self._paused: set[str] = set()
        self.until = gateway.now() + HEAD_S
        self._write_blocked = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name and isinstance(name, tuple) else "127.0.0.1"
        self.scheme = b"https" if transport.get_extra_info("sslcontext") else b"http"
        if not self.gateway.welcome(self):
            self.transport.abort()

    # --- what the client sends

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            self._head(data)
        elif state == _BODY:
            self._body(data)
        elif state == _TUNNEL:
            self.exchange.feed(data, self.gateway.now())
        elif state == _WAIT:
            self._buffer += data
            if len(self._buffer) > MAX_HEAD_BYTES:
                self.pause("it is not its turn")

    def _head(self, data: bytes) -> None:
        if self._buffer:
            start = max(0, len(self._buffer) - 3)
            data = self._buffer + data
        else:
            start = 0
            self.until = self.gateway.now() + HEAD_S
            if data[:2] == b"\r\n":  # RFC 9112, 2.2: an empty line before a request is passed over
                data = data[2:]
        end = data.find(b"\r\n\r\n", start)
        if end < 0 or end > MAX_HEAD_BYTES:
            self._buffer = data
            if len(data) > MAX_HEAD_BYTES:
                self._refuse_connection(BadMessage("the head of the request is too long", 431))
            elif b"\n\n" in data[start:] or data[-3:] == b"\n\r\n":
                self._refuse_connection(BadMessage("lines of a request end with CR LF"))
            return
        self._buffer = b""
        try:
            request = parse_request(data[:end])
        except BadMessage as error:
            self._refuse_connection(error)
            return
        self._close_after = not request.keep_alive
        self._start(request, data[end + 4 :])

    def _start(self, request: RequestHead, rest: bytes) -> None:
        if request.length is None:
            self._state, self._chunks = _BODY, Chunked(strict=True)
        elif request.length:
            self._state, self._left, self._chunks = _BODY, request.length, None
        else:
            self._state, self._buffer = _WAIT, rest
        self.until = self.gateway.now() + STALL_S
        exchange = self.gateway.admit(self, request)
        if exchange is None:  # answered already
            return
        self.exchange = exchange
        if request.expect and self._state == _BODY and not rest:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if rest and self._state == _BODY:
            self._body(rest)
        if self.exchange is exchange and not exchange.finished:
            self.gateway.dispatch(exchange)

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        now = self.gateway.now()
        self.until = now + STALL_S
        if self._chunks is None:
            body = data if len(data) <= self._left else data[: self._left]
            self._left -= len(body)
            done = not self._left
        else:
            try:
                used = self._chunks.feed(data)
            except BadMessage as error:
                self.gateway.drop(exchange, error.status)
                self._refuse_connection(error)
                return
            body, done = data[:used] if used < len(data) else data, self._chunks.done
            if self._chunks.payload > exchange.body_limit:
                self.gateway.drop(exchange, 413)
                self._refuse_connection(BadMessage("the body is larger than this endpoint takes", 413))
                return
        if done:
            exchange.body_done = True
            self._state = _WAIT
            self._buffer = data[len(body) :]
        exchange.feed(body, now)

    # --- what it gets

    def refuse(
        self, status: int, code: str, message: str, request_id: bytes, head_only: bool = False, extra: bytes = b""
    ) -> None:
        """Answer in the gateway's own name. The connection is used again if the request had no body."""
        body = json.dumps({"code": code, "message": message, "request_id": request_id.decode()}).encode()
        close = self._state != _WAIT or self._close_after or self.gateway.closing
        head = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n"
            % (
                status,
                _REASONS.get(status, b"Error"),
                len(body),
                request_id,
                extra,
                b"connection: close\r\n" if close else b"",
            )
        )
        self._close_after = close
        self.end_answer(head if head_only else head + body)

    def _refuse_connection(self, error: BadMessage) -> None:
        """After a message that cannot be understood nothing on this connection can be: answer and close."""
        self._state, self._buffer = _BODY, b""
        self.gateway.count_refused(error.status)
        self.refuse(
            error.status,
            "InvalidInput" if error.status < 500 else "Unavailable",
            error.message,
            self.gateway.new_request_id(),
        )

    def end_answer(self, last: bytes) -> None:
        """Write the end of an answer, then turn to the next request, or close."""
        self.exchange = None
        if last:
            self.transport.write(last)
        if self._close_after or self._state != _WAIT or self.gateway.closing:
            self._linger() if self._state == _BODY else self.close()
            return
        self.until = self.gateway.now() + IDLE_S
        if self._paused:
            self._paused.clear()
            self.transport.resume_reading()
        if self._buffer:
            self.gateway.loop.call_soon(
                self._go_on
            )  # not here: a hundred requests in one packet would be a hundred frames deep
        else:
            self._state = _HEAD

    def _go_on(self) -> None:
        """The next of several requests that came at once."""
        if self._state == _WAIT and not self.transport.is_closing():
            self._state = _HEAD
            data, self._buffer = self._buffer, b""
            self.data_received(data)

    def _linger(self) -> None:
        self._state = _CLOSING
        self.until = self.gateway.now() + LINGER_S
        if self._paused:
            self._paused.clear()
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def close_after_answer(self) -> None:
        self._close_after = True

    @property
    def closes(self) -> bool:
        return self._close_after

    def tunnel(self) -> None:
        """The replica has changed the protocol: from here on bytes pass both ways."""
        self._state, self._close_after = _TUNNEL, True
        data, self._buffer = self._buffer, b""
        if data:
            self.exchange.feed(data, self.gateway.now())

    def close(self) -> None:
        """Close when all that was written is sent."""
        self._state = _CLOSING
        self.until = self.gateway.now() + STALL_S
        self.transport.close()

    def abort(self) -> None:
        """Cut the connection: the client must see that its answer is not whole."""
        self._state = _CLOSING
        self.transport.abort()

    # --- flow and deadlines

    def pause(self, reason: str) -> None:
        if not self._paused:
            self.transport.pause_reading()
        self._paused.add(reason)

    def resume(self, reason: str) -> None:
        if reason in self._paused:
            self._paused.remove(reason)
            if not self._paused:
                self.until = self.gateway.now() + STALL_S
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        self._write_blocked = self.gateway.now()
        if self.exchange is not None and self.exchange.link is not None:
            self.exchange.link.transport.pause_reading()

    def resume_writing(self) -> None:
        self._write_blocked = 0.0
        if self.exchange is not None and self.exchange.link is not None:
            self.exchange.link.transport.resume_reading()

    def check(self, now: float) -> None:
        """Called twice a second: end what waits too long."""
        state = self._state
        if self._write_blocked and now - self._write_blocked > STALL_S:
            self.abort()  # a client that does not read would hold the replica
        elif state == _HEAD:
            if now > self.until:
                if self._buffer:
                    self._refuse_connection(BadMessage("the head of the request did not come in time", 408))
                else:
                    self.close()
        elif state == _CLOSING:
            if now > self.until:
                self.transport.abort()
        elif state == _BODY and not self._paused and now > self.until:
            self.gateway.drop(self.exchange, 408)
            self._refuse_connection(BadMessage("the body of the request did not come in time", 408))
        elif self.exchange is not None:
            self.gateway.check(self.exchange, now)

    def eof_received(self) -> bool:
        """A client that sends no more has left, as proxies see it; only in a tunnel may it still want to read."""
        if self._state == _TUNNEL and self.exchange is not None and self.exchange.link is not None:
            link = self.exchange.link
            return link.exchange is self.exchange and link.end_half(link.transport)
        return False

    @property
    def waits_for_head(self) -> bool:
        return self._state == _HEAD

    @property
    def idle(self) -> bool:
        return self._state == _HEAD and not self._buffer

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSING
        self.gateway.farewell(self)
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            self.gateway.drop(exchange, 499)
