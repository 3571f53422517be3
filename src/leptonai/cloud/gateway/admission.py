"""The way in: which endpoint a request means, whether its caller may, and whether there is room for it. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .access import Denied, caller_of, client_address
from .exchange import Exchange, outgoing_head
from .heads import RequestHead
from .limits import SharedLimits
from .routing import EndpointState, Routing
from .tracing import Tracing
from .usage import Spool

if TYPE_CHECKING:
    from .front import Front

PLANE_TIMEOUT_S = 300.0
PLANE_REACH_S = 5.0
PLANE_BODY_BYTES = 64 << 30


class TooMany(Denied):
    def __init__(self, message: str, retry_s: float):
        super().__init__(429, "TooManyRequests", message)
        self.retry_s = max(1, round(retry_s + 0.5))


class Admission:
    def __init__(
        self,
        routing: Routing,
        limits: SharedLimits,
        spool: Spool,
        now: Callable[[], float],
        tracing: Tracing | None = None,
    ):
        self.routing, self.limits, self.spool, self.now, self.tracing = routing, limits, spool, now, tracing

    def admit(self, front: Front, request: RequestHead, request_id: bytes) -> Exchange:
        """The exchange, counted as open in its endpoint. Raises Denied; nothing is counted then but a 429."""
        routing = self.routing
        client = client_address(routing, request, front.peer)
        found = routing.find(request.host, request.target)
        if found is None:
            raise Denied(404, "NotFound", "there is no such endpoint")
        endpoint, path = found
        exchange = Exchange(front, request, endpoint, client, self.now())
        exchange.request_id = request_id
        if endpoint is None:
            self._to_plane(exchange)
        else:
            self._to_endpoint(exchange, request, endpoint, path)
        if self.tracing is not None:
            self.tracing.begin(exchange)
        exchange.head = outgoing_head(request, path, client, request_id, front.scheme)
        return exchange

    def _to_plane(self, exchange: Exchange) -> None:
        if self.routing.plane is None:
            raise Denied(404, "NotFound", "there is no such endpoint")
        exchange.timeout_s, exchange.body_limit = PLANE_TIMEOUT_S, PLANE_BODY_BYTES
        exchange.hold_until = exchange.started + PLANE_REACH_S

    def _to_endpoint(self, exchange: Exchange, request: RequestHead, endpoint: EndpointState, path: bytes) -> None:
        entry = endpoint.entry
        limits = entry.limits
        exchange.caller, token = caller_of(self.routing, endpoint, request, exchange.client)
        if request.length is not None and request.length > limits.body_bytes:
            raise Denied(
                413, "InvalidInput", f"the body is larger than this endpoint takes ({limits.body_bytes} bytes)"
            )
        exchange.caller_stats = endpoint.caller(token.id if token is not None else "")
        per_minute = limits.requests_per_minute
        if token is not None and token.requests_per_minute is not None:
            per_minute = token.requests_per_minute
        if per_minute is not None:
            wait_s = self.limits.take(f"{endpoint.key}\0{exchange.caller}", per_minute)
            if wait_s > 0:
                exchange.caller_stats.limited += 1
                raise TooMany(f"more than {per_minute} requests a minute", wait_s)
        if not self.spool.ready:
            raise Denied(503, "Unavailable", "the gateway's disk is full: it cannot record this request")
        exchange.timeout_s, exchange.body_limit = limits.timeout_s, limits.body_bytes
        exchange.counted = endpoint.counts(request.method, path)
        if not entry.header_routing:
            request.replica = b""
        endpoint.in_flight += 1
        endpoint.last_request = exchange.started
        if exchange.counted:
            endpoint.minute.add(exchange.started)
