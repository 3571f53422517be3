"""A connection to a replica: carries one exchange at a time, then waits in the replica's pool for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from .bodies import Chunked
from .heads import MAX_HEAD_BYTES, BadMessage, parse_response

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway
    from .routing import ReplicaState

IDLE_S = 1.5
"""Shorter than any server keeps a connection open, so that a request never meets one that the server is closing."""
CONNECT_S = 2.0
_HEAD, _LENGTH, _CHUNKED, _TO_THE_END, _TUNNEL = range(5)


class Link(asyncio.Protocol):
    """`exchange`: what it carries; None while it is idle."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_left",
        "_reusable",
        "_state",
        "exchange",
        "gateway",
        "idle_since",
        "replica",
        "socket",
        "transport",
    )

    def __init__(self, gateway: Gateway, replica: ReplicaState):
        self.gateway, self.replica = gateway, replica
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.socket: socket.socket = None  # type: ignore[assignment]
        self.idle_since = 0.0
        self._state, self._buffer, self._left = _HEAD, b"", 0
        self._reusable = False
        self._chunks: Chunked = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._state, self._buffer = _HEAD, b""
        exchange.send(self)

    def alive(self, now: float) -> bool:
        """Whether an idle link can be used: after a pause, look whether the replica has closed it."""
        if self.transport is None or self.transport.is_closing() or self.replica.gone:
            return False
        if now - self.idle_since > 0.02 and self.socket is not None:
            try:
                self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                return False  # closed, or it says something that nobody asked for
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- what the replica sends

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()  # bytes after the end of an answer would be taken for the next one's
            return
        state = self._state
        if state == _HEAD:
            self._head(exchange, data)
            return
        exchange.deadline = self.gateway.now() + exchange.timeout_s
        if state in (_TUNNEL, _TO_THE_END):
            self._pass(exchange, data)
        elif state == _LENGTH:
            self._body_of_length(exchange, b"", data)
        else:
            self._chunked_body(exchange, b"", data)

    def _head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            self._buffer = data
            if len(data) > MAX_HEAD_BYTES:
                self.gateway.replica_broke(exchange, "the head of the replica's answer is too long")
            return
        try:
            response = parse_response(data[:end], exchange.request.method)
        except BadMessage as error:
            self.gateway.replica_broke(exchange, error.message)
            return
        rest = data[end + 4 :]
        if response.status < 200 and response.status != 101:
            self._buffer = b""  # 100 was answered by the gateway; other news on the way are optional
            if rest:
                self._head(exchange, rest)
            return
        if response.status == 101 and not exchange.request.upgrade:
            self.gateway.replica_broke(exchange, "the replica changes the protocol without being asked")
            return
        if response.length == -1 and not exchange.request.http11:
            self.gateway.replica_broke(exchange, "the replica answers an HTTP/1.0 request in chunks")
            return
        self._buffer = b""
        self._reusable = response.keep_alive
        head = self.gateway.answered(exchange, response)
        if response.status == 101:
            self._state = _TUNNEL
            exchange.front.tunnel()
            self._pass(exchange, head + rest)
        elif response.length is None:
            self._state = _TO_THE_END
            self._pass(exchange, head + rest)
        elif response.length >= 0:
            self._state, self._left = _LENGTH, response.length
            self._body_of_length(exchange, head, rest)
        else:
            self._state, self._chunks = _CHUNKED, Chunked(strict=False)
            self._chunked_body(exchange, head, rest)

    def _pass(self, exchange: Exchange, data: bytes) -> None:
        exchange.bytes_out += len(data)
        exchange.front.transport.write(data)

    def _body_of_length(self, exchange: Exchange, head: bytes, data: bytes) -> None:
        if len(data) > self._left:
            data, self._reusable = data[: self._left], False
        self._left -= len(data)
        exchange.bytes_out += len(data)
        if self._left:
            exchange.front.transport.write(head + data if head else data)
        else:
            self._end(exchange, head + data if head else data)

    def _chunked_body(self, exchange: Exchange, head: bytes, data: bytes) -> None:
        try:
            used = self._chunks.feed(data)
        except BadMessage as error:
            self.gateway.replica_broke(exchange, error.message)
            return
        if used < len(data):
            data, self._reusable = data[:used], False
        exchange.bytes_out += len(data)
        if self._chunks.done:
            self._end(exchange, head + data if head else data)
        else:
            exchange.front.transport.write(head + data if head else data)

    def _end(self, exchange: Exchange, last: bytes) -> None:
        """The answer is complete with `last`. The usage fact is written before the client can know that."""
        self.exchange = None
        reusable = self._reusable and exchange.body_done
        self.gateway.finish(exchange)
        exchange.front.end_answer(last)
        self.gateway.release(self, reusable)
        self.gateway.room(exchange.endpoint)

    # --- the connection itself

    def eof_received(self) -> bool:
        """The replica sends no more. In a tunnel the client may still: each direction ends by itself."""
        return self._state == _TUNNEL and self.exchange is not None and self.end_half(self.exchange.front.transport)

    def end_half(self, other: asyncio.Transport) -> bool:
        """One side of the tunnel has ended: tell the other. False if nothing is left to keep open."""
        exchange = self.exchange
        if not exchange.half_ended and other.can_write_eof():
            exchange.half_ended = True
            other.write_eof()
            return True
        self.exchange = None
        self.gateway.finish(exchange)
        self.transport.close()
        exchange.front.end_answer(b"")
        return False

    def _last_words(self) -> None:
        """Read what a replica said before it closed with our bytes unread: the reset makes writing fail, reading does not."""
        with contextlib.suppress(OSError):
            while self.exchange is not None and (data := self.socket.recv(65536, socket.MSG_DONTWAIT)):
                self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.exchange is not None and self._state != _TUNNEL:
            self._last_words()
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            with contextlib.suppress(ValueError):
                self.replica.idle.remove(self)
        elif self._state == _TUNNEL or (self._state == _TO_THE_END and exc is None):
            self.gateway.finish(exchange)
            exchange.front.end_answer(b"")
            self.gateway.room(exchange.endpoint)
        else:
            self.gateway.link_lost(exchange, self)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.front.pause("the replica is slow")

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.front.resume("the replica is slow")


async def open_link(gateway: Gateway, replica: ReplicaState) -> Link:
    """Raises OSError (TimeoutError too) if the replica does not take the connection."""
    loop = asyncio.get_running_loop()
    link = Link(gateway, replica)
    if replica.address.startswith("unix:"):
        link.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: object = replica.address.removeprefix("unix:")
    else:
        host, _, port = replica.address.rpartition(":")
        host = host.strip("[]")
        link.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = (host, int(port))
    link.socket.setblocking(False)
    try:
        await asyncio.wait_for(loop.sock_connect(link.socket, address), CONNECT_S)
        await loop.create_connection(lambda: link, sock=link.socket)
    except BaseException:
        link.socket.close()
        raise
    return link
