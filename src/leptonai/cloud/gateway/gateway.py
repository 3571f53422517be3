"""The middle of a worker: knows every client connection, lets requests in, and ends each admitted exchange with its account.

Invariant: an admitted exchange is finished exactly once, and until then counted once in its endpoint and in its replica.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from itertools import islice

from .access import Denied
from .accesslog import AccessLog
from .admission import Admission, TooMany
from .dispatcher import Dispatcher
from .exchange import Exchange
from .front import Front
from .heads import RequestHead, ResponseHead
from .limits import SharedLimits
from .link import Link
from .routing import RevisionState, Routing
from .table import Table
from .tracing import Tracing
from .usage import Spool

log = logging.getLogger("lepton.gateway")

MAX_CONNECTIONS = 16_384
SWEEP_S = 0.5
MAX_ATTEMPTS = 3
EVICTION_SAMPLE = 64


class Gateway:
    """`access_log` and `tracing`: None costs nothing."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spool: Spool,
        limits: SharedLimits,
        max_connections: int = MAX_CONNECTIONS,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
    ):
        self.loop, self.now = loop, time.monotonic
        self.spool, self.access_log, self.tracing = spool, access_log, tracing
        self.max_connections = max_connections
        self.routing = Routing()
        self.admission = Admission(self.routing, limits, spool, self.now, tracing)
        self.wake = asyncio.Event()
        """Set when a request waits for a replica: the controller should hear of it now."""
        self.dispatcher = Dispatcher(self)
        self.dispatch, self.room = self.dispatcher.dispatch, self.dispatcher.room
        self.fronts: set[Front] = set()
        self.refused: dict[int, int] = {}
        self.closing = False
        self._boot, self._count = secrets.token_hex(6).encode(), 0
        loop.call_later(SWEEP_S, self._sweep)

    # --- connections and routes

    def welcome(self, front: Front) -> bool:
        """Whether there is room. Where there is none, one that only waits for a request has to go: slow clients keep out nobody."""
        if len(self.fronts) >= self.max_connections:
            waiting = [one for one in islice(self.fronts, EVICTION_SAMPLE) if one.waits_for_head]
            if not waiting:
                return False
            min(waiting, key=lambda one: one.until).abort()
        self.fronts.add(front)
        return True

    def farewell(self, front: Front) -> None:
        self.fronts.discard(front)

    def apply(self, table: Table) -> None:
        """Put a new route table in force and give what waits to replicas that came. Raises ValueError; the old one stays then."""
        gone = self.routing.apply(table)
        for endpoint in gone:
            for exchange in list(endpoint.waiting):
                self.fail(exchange, 404, "NotFound", "this endpoint was deleted")
        for endpoint in self.routing.by_path.values():
            self.room(endpoint)

    def new_request_id(self) -> bytes:
        self._count += 1
        return b"%b-%x" % (self._boot, self._count)

    def count_refused(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1

    def admit(self, front: Front, request: RequestHead) -> Exchange | None:
        """The exchange, ready to be dispatched. None: the request was answered here, with what is wrong."""
        request_id = request.request_id or self.new_request_id()
        try:
            return self.admission.admit(front, request, request_id)
        except Denied as denied:
            self.count_refused(denied.status)
            if self.access_log is not None:
                self.access_log.refused(front.peer, request, request_id, denied.status)
            extra = b"www-authenticate: Bearer\r\n" if denied.status == 401 else b""
            if isinstance(denied, TooMany):
                extra = b"retry-after: %d\r\n" % denied.retry_s
            front.refuse(denied.status, denied.code, denied.message, request_id, request.method == b"HEAD", extra)
            return None

    # --- the way back

    def answered(self, exchange: Exchange, response: ResponseHead) -> bytes:
        """The replica has answered: the head for the client."""
        exchange.status, exchange.answered_at = response.status, self.now()
        exchange.deadline = exchange.answered_at + exchange.timeout_s
        front = exchange.front
        if response.status == 101:
            exchange.kept = None
            return b"\r\n".join(
                (response.first, *response.lines, b"connection: upgrade", b"upgrade: " + response.upgrade, b"\r\n")
            )
        if response.length is None or self.closing or not exchange.body_done:
            front.close_after_answer()
        lines = response.lines
        lines.append(b"x-request-id: " + exchange.request_id)
        if front.closes:
            lines.append(b"connection: close")
        return response.first + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"

    def finish(self, exchange: Exchange) -> None:
        """Account for an exchange: once, whatever its end was."""
        if exchange.finished:
            return
        exchange.finished = True
        replica, endpoint, revision = exchange.replica, exchange.endpoint, exchange.revision
        if replica is not None:
            replica.in_flight -= 1
        now = self.now()
        if self.access_log is not None:
            self.access_log.add(exchange, now)
        if self.tracing is not None:
            self.tracing.end(exchange)
        if endpoint is None:
            return
        endpoint.in_flight -= 1
        status = exchange.status
        if revision is not None:
            latency_s = (exchange.answered_at or now) - exchange.given_at
            revision.stats.add(status, latency_s, exchange.bytes_in, exchange.bytes_out, exchange.counted)
        else:
            endpoint.refused += 1
        exchange.caller_stats.add(status, exchange.bytes_in, exchange.bytes_out)
        entry = endpoint.entry
        self.spool.add(
            time.time(),
            entry.workspace,
            entry.name,
            revision.id if revision is not None else "",
            replica.id if replica is not None else "",
            exchange.caller,
            exchange.request_id.decode(),
            status,
            round((now - exchange.started) * 1000, 3),
            exchange.bytes_in,
            exchange.bytes_out,
        )

    def release(self, link: Link, reusable: bool) -> None:
        """The link has done its work: back to the pool, if it can be used again."""
        if reusable:
            self.dispatcher.keep(link)
        else:
            link.close()

    # --- what goes wrong

    def link_lost(self, exchange: Exchange, link: Link) -> None:
        """The connection to the replica ended before its answer did."""
        if exchange.finished:
            return
        if exchange.may_send_again() and exchange.attempts < MAX_ATTEMPTS:
            self.dispatcher.try_again(exchange)
        elif exchange.status:
            exchange.front.abort()  # part of the answer is out: only a cut says that it is not whole
            self.drop(exchange, 502)
        else:
            self.fail(exchange, 502, "Unavailable", "the replica ended while it worked on this request")

    def replica_broke(self, exchange: Exchange, why: str) -> None:
        """The replica answers with what is no HTTP answer."""
        where = exchange.endpoint.key if exchange.endpoint else "the plane"
        log.warning("replica %s of %s: %s", exchange.replica.id, where, why)
        link = exchange.link
        link.exchange = None
        link.close()
        if exchange.status:
            exchange.front.abort()
            self.drop(exchange, 502)
        else:
            self.fail(exchange, 502, "Unavailable", why)

    def fail(self, exchange: Exchange, status: int, code: str, message: str, retry_s: int = 0) -> None:
        """End an exchange with an answer of the gateway's own. Nothing of another answer may be out yet."""
        self.drop(exchange, status)
        extra = b"retry-after: %d\r\n" % retry_s if retry_s else b""
        exchange.front.refuse(status, code, message, exchange.request_id, exchange.request.method == b"HEAD", extra)

    def drop(self, exchange: Exchange | None, status: int) -> None:
        """End an exchange without an answer: take it out of the line and cut its connection to the replica."""
        if exchange is None or exchange.finished:
            return
        exchange.status = exchange.status or status
        if status == 499 and exchange.status != 101:  # a tunnel may be ended by either side
            exchange.status = 499
        if exchange.waiting:
            exchange.endpoint.waiting.remove(exchange)
            exchange.waiting = False
        self.finish(exchange)
        link = exchange.link
        if link is not None and link.exchange is exchange:
            link.exchange = None
            link.close()
        self.room(exchange.endpoint)

    def check(self, exchange: Exchange, now: float) -> None:
        """Twice a second for every open exchange: has its time run out?"""
        if exchange.waiting:
            if now >= exchange.hold_until:
                self.fail(exchange, 503, "Unavailable", "no replica became ready in time", retry_s=1)
        elif exchange.deadline and now >= exchange.deadline and exchange.replica is not None:
            if exchange.status:
                exchange.front.abort()
                self.drop(exchange, 504)
            else:
                self.fail(exchange, 504, "Unavailable", f"the replica did not answer within {exchange.timeout_s:g} s")

    # --- from time to time, and at the end

    def _sweep(self) -> None:
        now = self.now()
        for front in list(self.fronts):
            front.check(now)
        self.dispatcher.sweep(now)
        self.loop.call_later(SWEEP_S, self._sweep)

    def oldest(self) -> dict[RevisionState, float]:
        """When the request was sent that has waited longest for an answer, per revision."""
        found: dict[RevisionState, float] = {}
        for front in self.fronts:
            exchange = front.exchange
            if exchange is not None and exchange.revision is not None and not exchange.status and exchange.body_done:
                found[exchange.revision] = min(exchange.given_at, found.get(exchange.revision, exchange.given_at))
        return found

    async def drain(self, timeout_s: float) -> None:
        """Finish what is open, up to `timeout_s`; idle connections are closed at once."""
        self.closing = True
        deadline = self.now() + timeout_s
        while self.fronts and self.now() < deadline:
            for front in list(self.fronts):
                if front.idle:
                    front.close()
            await asyncio.sleep(0.02)
        for front in list(self.fronts):
            front.abort()
