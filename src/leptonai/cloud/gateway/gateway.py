"""The middle of a worker: admits a request, finds its replica, sends it again where that is safe, and accounts for it.

Invariant: an admitted exchange is finished exactly once, and until then counted once in its endpoint and in its replica.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque

from .access import Denied, caller_of, client_address
from .exchange import Exchange, outgoing_head
from .front import Front
from .heads import RequestHead, ResponseHead
from .limits import SharedLimits
from .link import IDLE_S, Link, open_link
from .routing import COOL_DOWN_S, EndpointState, ReplicaState, RevisionState, Routing
from .table import Table
from .usage import Spool

log = logging.getLogger("lepton.gateway")

MAX_CONNECTIONS = 16_384
RETRY_S = (0.05, 0.1, 0.2, 0.4)
"""Between two tries to reach any replica; a request that never left is tried for `REACH_S`, the time in which one is replaced."""
REACH_S = 10.0
PLANE_TIMEOUT_S = 300.0
PLANE_REACH_S = 5.0
PLANE_BODY_BYTES = 64 << 30
SWEEP_S = 0.5


class Gateway:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spool: Spool,
        limits: SharedLimits,
        max_connections: int = MAX_CONNECTIONS,
    ):
        self.loop, self.now = loop, time.monotonic
        self.spool, self.limits = spool, limits
        self.max_connections = max_connections
        self.routing = Routing()
        self.fronts: set[Front] = set()
        self.pools: set[ReplicaState] = set()
        self.refused: dict[int, int] = {}
        self.closing = False
        self.wake = asyncio.Event()
        """Set when a request waits for a replica: the controller should hear of it now."""
        self._tasks: set[asyncio.Task] = set()
        self._boot, self._count = secrets.token_hex(6), 0
        loop.call_later(SWEEP_S, self._sweep)

    # --- connections and routes

    def welcome(self, front: Front) -> bool:
        self.fronts.add(front)
        return len(self.fronts) <= self.max_connections

    def farewell(self, front: Front) -> None:
        self.fronts.discard(front)

    def apply(self, table: Table) -> None:
        """Put a new route table in force and give what waits to replicas that came. Raises ValueError; the old one stays then."""
        gone = self.routing.apply(table)
        for endpoint in gone:
            for exchange in list(endpoint.waiting):
                self.fail(exchange, 404, "NotFound", "this endpoint was deleted")
        for endpoint in self.routing.by_path.values():
            if endpoint.waiting:
                self._serve_waiting(endpoint)

    def new_request_id(self) -> bytes:
        self._count += 1
        return b"%b-%x" % (self._boot.encode(), self._count)

    def count_refused(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1

    # --- the way in

    def admit(self, front: Front, request: RequestHead) -> Exchange | None:
        """Route, authorise and limit. None: it was answered here, with what is wrong."""
        request_id = request.request_id or self.new_request_id()
        try:
            client = client_address(self.routing, request, front.peer)
            found = self.routing.find(request.host, request.target)
            if found is None:
                raise Denied(404, "NotFound", "there is no such endpoint")
            endpoint, path = found
            exchange = Exchange(front, request, endpoint, client, self.now())
            exchange.request_id = request_id
            if endpoint is None:
                self._admit_to_plane(exchange, request)
            else:
                self._admit_to_endpoint(exchange, request, endpoint, path)
        except Denied as denied:
            self.count_refused(denied.status)
            extra = b"www-authenticate: Bearer\r\n" if denied.status == 401 else b""
            if isinstance(denied, TooMany):
                extra = b"retry-after: %d\r\n" % denied.retry_s
            front.refuse(denied.status, denied.code, denied.message, request_id, request.method == b"HEAD", extra)
            return None
        exchange.head = outgoing_head(request, path, client, request_id, front.scheme, True)
        return exchange

    def _admit_to_plane(self, exchange: Exchange, request: RequestHead) -> None:
        if self.routing.plane is None:
            raise Denied(404, "NotFound", "there is no such endpoint")
        exchange.timeout_s, exchange.body_limit = PLANE_TIMEOUT_S, PLANE_BODY_BYTES
        exchange.hold_until = exchange.started + PLANE_REACH_S

    def _admit_to_endpoint(
        self, exchange: Exchange, request: RequestHead, endpoint: EndpointState, path: bytes
    ) -> None:
        limits = endpoint.entry.limits
        exchange.caller, token = caller_of(self.routing, endpoint, request, exchange.client)
        if request.length is not None and request.length > limits.body_bytes:
            raise Denied(
                413, "InvalidInput", f"the body is larger than this endpoint takes ({limits.body_bytes} bytes)"
            )
        per_minute = (
            token.requests_per_minute
            if token is not None and token.requests_per_minute is not None
            else limits.requests_per_minute
        )
        if per_minute is not None:
            wait_s = self.limits.take(f"{endpoint.key}\0{exchange.caller}", per_minute)
            if wait_s > 0:
                raise TooMany(f"more than {per_minute} requests a minute", wait_s)
        exchange.timeout_s, exchange.body_limit = limits.timeout_s, limits.body_bytes
        exchange.counted = endpoint.counts(request.method, path)
        if not endpoint.entry.header_routing:
            request.replica = b""
        endpoint.in_flight += 1
        endpoint.last_request = exchange.started
        if exchange.counted:
            endpoint.minute.add(exchange.started)

    # --- to a replica

    def dispatch(self, exchange: Exchange) -> None:
        """Give the exchange to a replica, or let it wait for one."""
        if exchange.finished:
            return
        now = self.now()
        endpoint = exchange.endpoint
        if endpoint is None:
            if self.routing.plane is None:
                self.fail(exchange, 503, "Unavailable", "the control plane is not running")
                return
            self._give(exchange, None, self.routing.plane, now)
        elif exchange.request.replica:
            found = endpoint.replica(exchange.request.replica.decode("latin-1"))
            if found is None:
                self.fail(
                    exchange, 404, "NotFound", "this endpoint has no replica of the name in X-Lepton-Replica-Target"
                )
            else:
                self._give(exchange, *found, now)
        else:
            found = endpoint.pick(exchange, now)
            if found is None:
                self._hold(exchange, endpoint, now)
            else:
                self._give(exchange, *found, now)

    def _give(self, exchange: Exchange, revision: RevisionState | None, replica: ReplicaState, now: float) -> None:
        exchange.revision, exchange.replica = revision, replica
        exchange.attempts += 1
        exchange.given_at, exchange.deadline = now, now + exchange.timeout_s
        replica.in_flight += 1
        idle = replica.idle
        while idle:
            link = idle.pop()
            if link.alive(now):
                link.reused = True
                link.begin(exchange)
                return
            link.close()
        task = self.loop.create_task(self._connect(exchange, replica))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange, replica: ReplicaState) -> None:
        try:
            link = await open_link(self, replica)
        except OSError:
            replica.failed_until = self.now() + COOL_DOWN_S
            if not exchange.finished and exchange.replica is replica:
                self._try_again(exchange)
            return
        if exchange.finished or exchange.replica is not replica:
            self._keep(link)
        else:
            link.begin(exchange)

    def _hold(self, exchange: Exchange, endpoint: EndpointState, now: float) -> None:
        """No replica, or none with room: wait in line, unless the line is full or waiting is not wanted."""
        limits = endpoint.entry.limits
        if len(endpoint.waiting) >= limits.held:
            self.fail(exchange, 503, "Unavailable", "too many requests wait for a replica already", retry_s=1)
            return
        if not exchange.hold_until:
            exchange.hold_until = now + limits.hold_s
        if now >= exchange.hold_until:
            self.fail(exchange, 503, "Unavailable", "no replica is ready", retry_s=1)
            return
        exchange.waiting = True
        endpoint.waiting.append(exchange)
        self.wake.set()

    def _serve_waiting(self, endpoint: EndpointState) -> None:
        waiting, endpoint.waiting = endpoint.waiting, deque()
        while waiting:
            exchange = waiting.popleft()
            exchange.waiting = False
            self.dispatch(exchange)
            if exchange.waiting:  # still no room: the rest keeps its order behind it
                endpoint.waiting.extend(waiting)
                return

    def _try_again(self, exchange: Exchange) -> None:
        """The replica could not be reached, or was lost before anything could have happened there."""
        replica = exchange.replica
        replica.in_flight -= 1
        exchange.tried = (*exchange.tried, replica)
        exchange.replica = exchange.revision = exchange.link = None
        exchange.sent = False
        if not exchange.hold_until:
            hold_s = exchange.endpoint.entry.limits.hold_s
            exchange.hold_until = self.now() + min(REACH_S, hold_s)
        fresh = exchange.endpoint is not None and any(
            not one.draining and one not in exchange.tried
            for revision in exchange.endpoint.revisions.values()
            for one in revision.replicas.values()
        )
        if fresh:
            self.dispatch(exchange)
        elif self.now() >= exchange.hold_until:
            self.fail(exchange, 503, "Unavailable", "no replica can be reached", retry_s=1)
        else:
            self.loop.call_later(RETRY_S[min(exchange.attempts - 1, len(RETRY_S) - 1)], self.dispatch, exchange)

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
        if endpoint is None:
            return
        endpoint.in_flight -= 1
        now = self.now()
        status = exchange.status
        if revision is not None:
            latency_s = (exchange.answered_at or now) - exchange.given_at
            revision.stats.add(status, latency_s, exchange.bytes_in, exchange.bytes_out, exchange.counted)
        else:
            endpoint.refused += 1
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
            self._keep(link)
        else:
            link.close()

    def _keep(self, link: Link) -> None:
        if link.replica.draining or link.replica.gone or link.transport.is_closing():
            link.close()
            return
        link.idle_since = self.now()
        if not link.transport.is_reading():  # the client before was slow
            link.transport.resume_reading()
        link.replica.idle.append(link)
        self.pools.add(link.replica)

    def room(self, endpoint: EndpointState | None) -> None:
        if endpoint is not None and endpoint.waiting:
            self._serve_waiting(endpoint)

    # --- what goes wrong

    def link_lost(self, exchange: Exchange, link: Link) -> None:
        """The connection to the replica ended before its answer did."""
        if exchange.finished:
            return
        if exchange.may_send_again() and exchange.attempts < 3:
            self._try_again(exchange)
        elif exchange.status:
            exchange.front.abort()  # part of the answer is out: only a cut says that it is not whole
            self.drop(exchange, 502)
        else:
            self.fail(exchange, 502, "Unavailable", "the replica ended while it worked on this request")

    def replica_broke(self, exchange: Exchange, why: str) -> None:
        """The replica answers with what is no HTTP answer."""
        log.warning(
            "replica %s of %s: %s",
            exchange.replica.id,
            exchange.endpoint.key if exchange.endpoint else "the plane",
            why,
        )
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
        if status == 499:
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

    def _sweep(self) -> None:
        now = self.now()
        for front in list(self.fronts):
            front.check(now)
        for replica in list(self.pools):
            while replica.idle and now - replica.idle[0].idle_since > IDLE_S:
                replica.idle.pop(0).close()
            if not replica.idle:
                self.pools.discard(replica)
        self.loop.call_later(SWEEP_S, self._sweep)

    def oldest(self) -> dict[RevisionState, float]:
        """When the request was sent that has waited longest for an answer, per revision."""
        found: dict[RevisionState, float] = {}
        for front in self.fronts:
            exchange = front.exchange
            if exchange is not None and exchange.revision is not None and not exchange.status and exchange.body_done:
                found[exchange.revision] = min(exchange.given_at, found.get(exchange.revision, exchange.given_at))
        return found

    # --- the end

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


class TooMany(Denied):
    def __init__(self, message: str, retry_s: float):
        super().__init__(429, "TooManyRequests", message)
        self.retry_s = max(1, round(retry_s + 0.5))
