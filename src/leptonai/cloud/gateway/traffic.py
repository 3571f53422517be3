"""What workers tell the controllers, in `traffic/<worker>.json`: open requests per replica, rates, errors and latencies per revision.

Counts grow from 0 at each start of a worker (`boot`). A report older than `STALE_S` is of a worker that is gone.
"""

from __future__ import annotations

import os
import time
from itertools import zip_longest
from pathlib import Path

import msgspec

from ...base.structs import prepare
from .counts import BUCKETS_S, CallerStats, Stats
from .routing import EndpointState, RevisionState, Routing

STALE_S = 5.0


class RevisionTraffic(msgspec.Struct, omit_defaults=True):
    """Since the worker's start. `histogram`: requests per latency bucket (`counts.BUCKETS_S`); `statuses`: per hundred.

    `silent_s`: for how long the oldest open request has had no answer.
    """

    requests: int = 0
    errors: int = 0
    latency_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    statuses: list[int] = []
    histogram: list[int] = []
    silent_s: float = 0.0

    def add(self, other: RevisionTraffic) -> None:
        for name in ("requests", "errors", "latency_s", "bytes_in", "bytes_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.silent_s = max(self.silent_s, other.silent_s)
        self.statuses = _sum(self.statuses, other.statuses)
        self.histogram = _sum(self.histogram, other.histogram)

    def minus(self, other: RevisionTraffic) -> RevisionTraffic:
        """What came since `other`; a worker that restarted or forgot it meanwhile makes it smaller, never negative."""
        return RevisionTraffic(
            max(0, self.requests - other.requests),
            max(0, self.errors - other.errors),
            max(0.0, self.latency_s - other.latency_s),
            histogram=[max(0, a - b) for a, b in zip_longest(self.histogram, other.histogram, fillvalue=0)],
        )

    def quantile(self, q: float) -> float | None:
        """Upper end (s) of the bucket in which the quantile lies; None without requests."""
        target, seen = q * sum(self.histogram), 0
        for count, end in zip(self.histogram, (*BUCKETS_S, 2 * BUCKETS_S[-1]), strict=False):
            seen += count
            if count and seen >= target:
                return end
        return None


class CallerTraffic(msgspec.Struct, omit_defaults=True):
    """Of one token or key since the worker's start. `limited`: requests that were turned away with 429, which are not in `requests`."""

    requests: int = 0
    errors: int = 0
    limited: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class EndpointTraffic(msgspec.Struct, omit_defaults=True):
    """`callers`: by id of token or key, "" for those without one.

    `version`: of the route in force; `minute`: requests that count in the last minute; `last_request`: seconds since 1970."""

    version: int = 0
    in_flight: int = 0
    held: int = 0
    refused: int = 0
    minute: int = 0
    last_request: float = 0.0
    revisions: dict[str, RevisionTraffic] = {}
    replicas: dict[str, int] = {}
    callers: dict[str, CallerTraffic] = {}


class Report(msgspec.Struct, omit_defaults=True):
    worker: str
    boot: str
    pid: int
    at: float
    table: int = -1
    connections: int = 0
    refused: dict[int, int] = {}
    endpoints: dict[str, EndpointTraffic] = {}


prepare(Report)


def report(
    worker: str,
    boot: str,
    routing: Routing,
    connections: int,
    refused: dict[int, int],
    oldest: dict[RevisionState, float],
    now: float,
) -> Report:
    """`oldest`: when the request was sent that has waited longest for an answer, per revision. `now`: of the same clock."""
    wall = time.time()
    found = {}
    for state in routing.by_path.values():
        replicas = {
            one.id: one.in_flight for revision in state.revisions.values() for one in revision.replicas.values()
        }
        draining = any(one.draining for revision in state.revisions.values() for one in revision.replicas.values())
        if state.last_request or draining or state.callers:
            found[state.key] = _endpoint(state, replicas, oldest, now, wall)
    return Report(worker, boot, os.getpid(), wall, routing.version, connections, dict(refused), found)


def _endpoint(
    state: EndpointState, replicas: dict[str, int], oldest: dict[RevisionState, float], now: float, wall: float
) -> EndpointTraffic:
    return EndpointTraffic(
        state.entry.version,
        state.in_flight,
        len(state.waiting),
        state.refused,
        state.minute.total(now),
        wall - (now - state.last_request) if state.last_request else 0.0,
        {id: _revision(one.stats, now - oldest.get(one, now)) for id, one in state.revisions.items()},
        replicas,
        {id: _caller(one) for id, one in state.callers.items()},
    )


def _caller(stats: CallerStats) -> CallerTraffic:
    return CallerTraffic(stats.requests, stats.errors, stats.limited, stats.bytes_in, stats.bytes_out)


def _revision(stats: Stats, silent_s: float) -> RevisionTraffic:
    return RevisionTraffic(
        stats.requests,
        stats.errors,
        stats.latency_s,
        stats.bytes_in,
        stats.bytes_out,
        stats.statuses,
        stats.histogram,
        round(silent_s, 2),
    )


def write_report(folder: Path, one: Report) -> None:
    """Replace the worker's report. Not fsynced: after a crash of the machine it would be stale anyway."""
    temporary = folder / f".{one.worker}.new"
    temporary.write_bytes(msgspec.json.encode(one))
    os.replace(temporary, folder / f"{one.worker}.json")


class Traffic:
    """All workers' reports of one moment, added up per endpoint."""

    def __init__(self, reports: list[Report]):
        self.reports = reports

    @classmethod
    def read(cls, folder: Path, now: float | None = None) -> Traffic:
        now = time.time() if now is None else now
        found = []
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                one = msgspec.json.decode(path.read_bytes(), type=Report)
            except (FileNotFoundError, msgspec.MsgspecError):
                continue
            if now - one.at <= STALE_S:
                found.append(one)
        return cls(found)

    def endpoint(self, key: str) -> EndpointTraffic:
        """`key`: workspace/name. Zeros if nobody called it."""
        total = EndpointTraffic()
        for one in self.reports:
            part = one.endpoints.get(key)
            if part is None:
                continue
            for name in ("in_flight", "held", "refused", "minute"):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.last_request = max(total.last_request, part.last_request)
            for id, count in part.replicas.items():
                total.replicas[id] = total.replicas.get(id, 0) + count
            for id, revision in part.revisions.items():
                total.revisions.setdefault(id, RevisionTraffic()).add(revision)
        return total

    def drained(self, key: str, replica: str, version: int) -> bool:
        """Whether no worker has a request open at the replica, and all act on the route of `version` or a later one."""
        for one in self.reports:
            part = one.endpoints.get(key)
            if part is None or part.version < version or part.replicas.get(replica, 0):
                return False
        return True


def _sum(one: list[int], other: list[int]) -> list[int]:
    if not one or not other:
        return list(one or other)
    return [a + b for a, b in zip(one, other, strict=True)]
