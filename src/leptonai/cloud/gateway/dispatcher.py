"""From an admitted exchange to a replica: picks one, connects, holds what finds none, tries again what was not started.

Invariant: `ReplicaState.in_flight` counts an exchange from `_give` until `Gateway.finish` or `try_again`; one that waits is in its
endpoint's line exactly once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .exchange import Exchange
from .link import IDLE_S, Link, open_link
from .routing import COOL_DOWN_S, EndpointState, ReplicaState, RevisionState

if TYPE_CHECKING:
    from .gateway import Gateway

RETRY_S = (0.05, 0.1, 0.2, 0.4)
"""Between two tries to reach any replica; a request that never left is tried for `REACH_S`, the time in which one is replaced."""
REACH_S = 10.0


class Dispatcher:
    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.loop, self.now = gateway.loop, gateway.now
        self.pools: set[ReplicaState] = set()
        """Replicas that have idle connections."""
        self._tasks: set[asyncio.Task] = set()

    def dispatch(self, exchange: Exchange) -> None:
        """Give the exchange to a replica, or let it wait for one."""
        if exchange.finished:
            return
        now = self.now()
        endpoint = exchange.endpoint
        if endpoint is None:
            plane = self.gateway.routing.plane
            if plane is None:
                self.gateway.fail(exchange, 503, "Unavailable", "the control plane is not running")
            else:
                self._give(exchange, None, plane, now)
            return
        if exchange.request.replica:
            found = endpoint.replica(exchange.request.replica.decode("latin-1"))
            if found is None:
                why = "this endpoint has no replica of the name in X-Lepton-Replica-Target"
                self.gateway.fail(exchange, 404, "NotFound", why)
                return
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
                link.begin(exchange)
                return
            link.close()
        task = self.loop.create_task(self._connect(exchange, replica))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange, replica: ReplicaState) -> None:
        try:
            link = await open_link(self.gateway, replica)
        except OSError:
            replica.failed_until = self.now() + COOL_DOWN_S
            if not exchange.finished and exchange.replica is replica:
                self.try_again(exchange)
            return
        if exchange.finished or exchange.replica is not replica:
            self.keep(link)
        else:
            link.begin(exchange)

    # --- those that wait

    def _hold(self, exchange: Exchange, endpoint: EndpointState, now: float) -> None:
        """No replica, or none with room: wait in line, unless the line is full or waiting is not wanted."""
        limits = endpoint.entry.limits
        if len(endpoint.waiting) >= limits.held:
            self.gateway.fail(exchange, 503, "Unavailable", "too many requests wait for a replica already", retry_s=1)
            return
        if not exchange.hold_until:
            exchange.hold_until = now + limits.hold_s
        if now >= exchange.hold_until:
            self.gateway.fail(exchange, 503, "Unavailable", "no replica is ready", retry_s=1)
            return
        exchange.waiting = True
        endpoint.waiting.append(exchange)
        self.gateway.wake.set()

    def room(self, endpoint: EndpointState | None) -> None:
        """A replica of the endpoint may have room again: go on with those that wait, in their order."""
        if endpoint is None or not endpoint.waiting:
            return
        waiting, endpoint.waiting = endpoint.waiting, deque()
        while waiting:
            exchange = waiting.popleft()
            exchange.waiting = False
            self.dispatch(exchange)
            if exchange.waiting:  # still no room: the rest keeps its order behind it
                endpoint.waiting.extend(waiting)
                return

    def try_again(self, exchange: Exchange) -> None:
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
            self.gateway.fail(exchange, 503, "Unavailable", "no replica can be reached", retry_s=1)
        else:
            self.loop.call_later(RETRY_S[min(exchange.attempts - 1, len(RETRY_S) - 1)], self.dispatch, exchange)

    # --- connections that are free

    def keep(self, link: Link) -> None:
        """Into the replica's pool, if the link can be used again."""
        if link.replica.draining or link.replica.gone or link.transport.is_closing():
            link.close()
            return
        link.idle_since = self.now()
        if not link.transport.is_reading():  # the client before was slow
            link.transport.resume_reading()
        link.replica.idle.append(link)
        self.pools.add(link.replica)

    def sweep(self, now: float) -> None:
        """Close what has been idle for longer than a replica may keep it open."""
        for replica in list(self.pools):
            while replica.idle and now - replica.idle[0].idle_since > IDLE_S:
                replica.idle.pop(0).close()
            if not replica.idle:
                self.pools.discard(replica)
