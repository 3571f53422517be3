"""One request on its way: from the client's connection through a replica's and back. Owns what is needed to send it once more.

It may be sent again only while that cannot do anything twice: nothing of it has left for a replica, or the method is idempotent,
all of it is still in hand, and nothing of an answer has been seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .heads import RequestHead

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from .counts import CallerStats
    from .front import Front
    from .link import Link
    from .routing import EndpointState, ReplicaState, RevisionState

KEEP_BYTES = 64 * 1024
"""Of a body, kept for a second try; a longer one waits at the client until the replica takes it."""
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Exchange:
    __slots__ = (
        "answered_at",
        "attempts",
        "body_done",
        "body_limit",
        "bytes_in",
        "bytes_out",
        "caller",
        "caller_stats",
        "client",
        "counted",
        "deadline",
        "endpoint",
        "finished",
        "front",
        "given_at",
        "half_ended",
        "head",
        "hold_until",
        "kept",
        "kept_bytes",
        "link",
        "replica",
        "request",
        "request_id",
        "revision",
        "sent",
        "span",
        "started",
        "status",
        "timeout_s",
        "tried",
        "waiting",
    )

    def __init__(self, front: Front, request: RequestHead, endpoint: EndpointState | None, client: str, now: float):
        self.front, self.request, self.endpoint, self.client = front, request, endpoint, client
        self.started = now
        self.caller = ""
        self.caller_stats: CallerStats = None  # type: ignore[assignment]
        self.span: Span | None = None
        self.request_id = b""
        self.head = b""
        self.kept: list[bytes] | None = []
        self.kept_bytes = self.bytes_in = self.bytes_out = self.status = self.attempts = 0
        self.answered_at = 0.0
        self.body_limit = 1 << 62
        self.body_done = request.length == 0
        self.sent = self.finished = self.waiting = self.counted = self.half_ended = False
        self.revision: RevisionState | None = None
        self.replica: ReplicaState | None = None
        self.link: Link | None = None
        self.tried: tuple[ReplicaState, ...] = ()
        self.deadline = self.given_at = self.hold_until = self.timeout_s = 0.0

    def feed(self, data: bytes, now: float) -> None:
        """A part of the request's body, as it came."""
        self.bytes_in += len(data)
        if self.kept is not None:
            self.kept.append(data)
            self.kept_bytes += len(data)
        if self.link is not None:
            self.deadline = now + self.timeout_s
            self.link.transport.write(data)
            if self.kept_bytes > KEEP_BYTES:
                self.kept = None
        elif self.kept_bytes > KEEP_BYTES:
            self.front.pause("no replica has it yet")

    def send(self, link: Link) -> None:
        """Give the link all there is so far."""
        self.link, self.sent = link, True
        link.transport.write(self.head + b"".join(self.kept) if self.kept else self.head)
        if self.kept_bytes > KEEP_BYTES:
            self.kept = None
            self.front.resume("no replica has it yet")

    def may_send_again(self) -> bool:
        if not self.sent:
            return True
        return (
            self.status == 0
            and self.kept is not None
            and self.request.method in _IDEMPOTENT
            and not self.request.upgrade
        )


def outgoing_head(request: RequestHead, path: bytes, client: str, request_id: bytes, scheme: bytes) -> bytes:
    """The head that a replica gets: framing, way and identity written by the gateway, the rest as the client wrote it."""
    lines = [
        b"%b %b HTTP/1.%d" % (request.method, path, request.http11),
        b"host: " + request.host,
        b"x-request-id: " + request_id,
        b"x-forwarded-for: " + (request.forwarded_for + b", " if request.forwarded_for else b"") + client.encode(),
        b"x-forwarded-proto: " + scheme,
        b"x-forwarded-host: " + request.host,
        *request.lines,
    ]
    if request.length is None:
        lines.append(b"transfer-encoding: chunked")
    elif request.length or request.method in (b"POST", b"PUT", b"PATCH"):
        lines.append(b"content-length: %d" % request.length)
    if request.authorization is not None:
        lines.append(b"authorization: " + request.authorization)
    if request.replica:
        lines.append(b"x-lepton-replica-target: " + request.replica)
    if request.upgrade:
        lines.append(b"connection: upgrade\r\nupgrade: " + request.upgrade)
    elif not request.http11:
        lines.append(b"connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
