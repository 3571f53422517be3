"""The route table at work: which endpoint a request means, which revision and replica get it, and how many each has open.

Counts and connections live on through a new table: an endpoint, revision or replica that is in both stays the same object.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from .counts import CallerStats, Minute, Stats
from .networks import Network, networks
from .table import Endpoint, Ingress, Key, Replica, Revision, Table, Token

if TYPE_CHECKING:
    from .exchange import Exchange
    from .link import Link

log = logging.getLogger("lepton.gateway")

RESERVED = frozenset({b"api", b"v1", b"workspace", b"healthz", b"metrics", b"console", b"static", b"login"})
"""First parts of a path that are the plane's, so that no workspace can take them over."""
MAX_CALLERS = 1000
GOLDEN = (5**0.5 - 1) / 2
COOL_DOWN_S = 1.0
"""How long a replica that refused a connection is asked last."""


class _HasWeight(Protocol):
    weight: int


Weighted = TypeVar("Weighted", bound=_HasWeight)


class ReplicaState:
    """One replica: `in_flight` requests and `idle` connections, the newest last."""

    __slots__ = ("address", "draining", "failed_until", "gone", "id", "idle", "in_flight")

    def __init__(self, replica: Replica):
        self.id, self.address, self.draining = replica.id, replica.address, replica.draining
        self.in_flight = 0
        self.idle: list[Link] = []
        self.failed_until = 0.0
        self.gone = False

    def retire(self) -> None:
        """Let the connections go that nobody uses: the replica will be stopped."""
        while self.idle:
            self.idle.pop().close()


class RevisionState:
    __slots__ = ("id", "replicas", "stats", "weight")

    def __init__(self, revision: Revision):
        self.id, self.weight = revision.id, revision.weight
        self.replicas: dict[str, ReplicaState] = {}
        self.stats = Stats()

    def apply(self, revision: Revision) -> None:
        before = self.replicas
        self.weight = revision.weight
        self.replicas = {}
        for one in revision.replicas:
            state = before.pop(one.id, None)
            if state is not None and state.address != one.address:
                before[one.id], state = state, None
            state = state or ReplicaState(one)
            state.draining = one.draining
            if one.draining:
                state.retire()
            self.replicas[one.id] = state
        for state in before.values():
            state.gone = True
            state.retire()

    def usable(self) -> bool:
        return any(not replica.draining for replica in self.replicas.values())


class EndpointState:
    """`waiting`: requests for which there is no replica, or none with room, oldest first."""

    __slots__ = (
        "allow",
        "by_hash",
        "callers",
        "entry",
        "in_flight",
        "key",
        "last_request",
        "minute",
        "refused",
        "revisions",
        "spread",
        "waiting",
    )

    def __init__(self, entry: Endpoint):
        self.key = f"{entry.workspace}/{entry.name}"
        self.revisions: dict[str, RevisionState] = {}
        self.callers: dict[str, CallerStats] = {}
        self.waiting: deque[Exchange] = deque()
        self.in_flight = self.refused = 0
        self.last_request = 0.0
        self.minute, self.spread = Minute(), Spread()
        self.apply(entry)

    def apply(self, entry: Endpoint) -> None:
        self.entry = entry
        self.allow = networks(entry.access.allow)
        self.by_hash: dict[str, Token] = {token.hash: token for token in entry.access.tokens}
        before, self.revisions = self.revisions, {}
        for one in entry.revisions:
            state = before.pop(one.id, None) or RevisionState(one)
            state.apply(one)
            self.revisions[one.id] = state
        for state in before.values():
            state.apply(Revision(state.id))

    def pick(self, exchange: Exchange, now: float) -> tuple[RevisionState, ReplicaState] | None:
        """The replica for a request; None if there is none with room. Replicas that it has tried are taken last."""
        usable = [revision for revision in self.revisions.values() if revision.weight > 0 and revision.usable()]
        if not usable:
            return None
        revision = usable[0] if len(usable) == 1 else self.spread.pick(usable)
        replica = self._least(revision, exchange, now)
        if replica is None:
            for revision in usable:
                replica = self._least(revision, exchange, now)
                if replica is not None:
                    break
            else:
                return None
        return revision, replica

    def _least(self, revision: RevisionState, exchange: Exchange, now: float) -> ReplicaState | None:
        limit = self.entry.limits.concurrency
        if len(revision.replicas) == 1:  # nothing to compare
            (replica,) = revision.replicas.values()
            return None if replica.draining or (limit is not None and replica.in_flight >= limit) else replica
        best, best_rank = None, None
        for replica in revision.replicas.values():
            if replica.draining or (limit is not None and replica.in_flight >= limit):
                continue
            rank = (replica in exchange.tried, replica.failed_until > now, replica.in_flight)
            if self.entry.balance == "sticky":
                rank = (*rank[:2], _rendezvous(exchange.client, replica.id))
            if best_rank is None or rank < best_rank:
                best, best_rank = replica, rank
        if best is not None and best.in_flight == 0:
            _to_the_end(revision.replicas, best)
        return best

    def replica(self, id: str) -> tuple[RevisionState, ReplicaState] | None:
        """The replica that a request asks for by name; a draining one is still there for that."""
        for revision in self.revisions.values():
            if id in revision.replicas:
                return revision, revision.replicas[id]
        return None

    def caller(self, id: str) -> CallerStats:
        """The counts of a token or key; "" stands for all callers without one, and for those past `MAX_CALLERS`."""
        found = self.callers.get(id)
        if found is None:
            if len(self.callers) >= MAX_CALLERS:
                id = ""
            found = self.callers.setdefault(id, CallerStats())
        return found

    def counts(self, method: bytes, path: bytes) -> bool:
        """Whether the request is one of those that the autoscaler counts."""
        methods, paths = self.entry.count_methods, self.entry.count_paths
        return (not methods or method.decode() in methods) and (not paths or path.decode().startswith(paths))


class Spread:
    """Shares requests out by weight, by the golden rotation: after any number of requests each share is met to within two of them.

    So is the share of every second, third, … request: callers who take turns do not end at one revision each.
    """

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = random.random()  # workers that start together are not in step

    def pick(self, choices: Sequence[Weighted]) -> Weighted:
        total = 0
        for one in choices:
            total += one.weight
        self._at = (self._at + GOLDEN) % 1.0
        point = self._at * total
        for one in choices:
            point -= one.weight
            if point < 0:
                return one
        return choices[-1]


def _rendezvous(client: str, replica: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{client}\0{replica}".encode(), digest_size=8).digest())


def _to_the_end(replicas: dict[str, ReplicaState], replica: ReplicaState) -> None:
    """Among replicas without work, take turns."""
    replicas[replica.id] = replicas.pop(replica.id)


class Routing:
    """All routes of one worker. `apply` takes a new table; `find` is called for every request."""

    def __init__(self) -> None:
        self.version = -1
        self.plane: ReplicaState | None = None
        self.by_path: dict[tuple[bytes, bytes], EndpointState] = {}
        self.by_label: dict[bytes, EndpointState] = {}
        self.by_domain: dict[bytes, tuple[Ingress, tuple[Network, ...], list[_Share], Spread]] = {}
        self.workspaces: set[bytes] = set()
        self.keys: dict[str, Key] = {}
        self.trusted: tuple[Network, ...] = ()

    def apply(self, table: Table) -> list[EndpointState]:
        """Returns the endpoints that are gone. Raises ValueError if a network in the table is none; the routes before stay then."""
        for texts in (
            table.trusted_proxies,
            *(one.access.allow for one in table.endpoints),
            *(one.allow for one in table.ingresses),
        ):
            networks(texts)
        before, self.by_path, self.by_label, twice = self.by_path, {}, {}, set()
        for entry in table.endpoints:
            path = (entry.workspace.encode(), entry.name.encode())
            state = before.pop(path, None)
            if state is None:
                state = EndpointState(entry)
            elif state.entry != entry:
                state.apply(entry)
            self.by_path[path] = state
            label = f"{entry.name}-{entry.workspace}".lower().encode()
            # a-b of c and a of b-c are one host name: neither gets it, or one tenant could take the other's requests.
            if label in self.by_label:
                twice.add(label)
            self.by_label[label] = state
        for label in twice:
            del self.by_label[label]
        for state in before.values():
            state.apply(Endpoint(state.entry.workspace, state.entry.name))
        self.workspaces = {workspace for workspace, _ in self.by_path} - RESERVED
        self.by_domain = {
            one.host.lower().encode(): (one, networks(one.allow), self._shares(one), Spread())
            for one in table.ingresses
        }
        self.keys = {key.hash: key for key in table.keys}
        self.trusted = networks(table.trusted_proxies)
        if self.plane is None or self.plane.address != table.plane:
            if self.plane is not None:
                self.plane.gone = True
                self.plane.retire()
            self.plane = ReplicaState(Replica("plane", table.plane)) if table.plane else None
        self.version = table.version
        return list(before.values())

    def _shares(self, ingress: Ingress) -> list[_Share]:
        found = (
            (self.by_path.get((ingress.workspace.encode(), one.endpoint.encode())), one.weight)
            for one in ingress.targets
        )
        return [_Share(state, weight) for state, weight in found if state is not None and weight > 0]

    def find(self, host: bytes, target: bytes) -> tuple[EndpointState, bytes] | tuple[None, bytes] | None:
        """(endpoint, the path it sees); (None, target): the plane's; None: nobody's.

        By domain first, then by host label, then by the first two parts of the path, taken as they are written.
        """
        if self.by_domain and (found := self.by_domain.get(_domain(host))):
            shares = found[2]
            return (found[3].pick(shares).endpoint, target) if shares else None
        if b"." in host:
            state = self.by_label.get(host.partition(b".")[0].lower())
            if state is not None:
                return state, target
        workspace, _, rest = target[1:].partition(b"/")
        if workspace in self.workspaces:
            name, slash, path = rest.partition(b"/")
            query = b""
            if not slash:
                name, mark, query = name.partition(b"?")
                query = mark + query
            state = self.by_path.get((workspace, name))
            return (state, b"/" + path + query) if state is not None else None
        return None, target

    def ingress(self, host: bytes) -> tuple[Network, ...]:
        found = self.by_domain.get(_domain(host)) if self.by_domain else None
        return found[1] if found else ()


class _Share:
    __slots__ = ("endpoint", "weight")

    def __init__(self, endpoint: EndpointState, weight: int):
        self.endpoint, self.weight = endpoint, weight


def _domain(host: bytes) -> bytes:
    return host.partition(b":")[0].lower().rstrip(b".")
