"""`/logs`: lines of a workload between two moments, in the form of Loki. Times are nanoseconds since 1970."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from ...base.errors import InvalidInput, NotFound, Unavailable
from ..resources.fields import ReplicaStatus
from ..resources.registry import KINDS
from ..store import Resource
from .call import Call

MAX_LINES = 10_000
DAY_NS = 86_400 * 10**9


def query(call: Call) -> dict[str, Any]:
    """At most `limit` lines that hold `q`: the newest (`direction=backward`) or the oldest of the time asked for."""
    start, end = _span(call)
    limit = call.number("limit", 100, most=MAX_LINES, least=1)
    forward = call.one("direction") == "forward"
    lines = _lines(call, start, end)
    found = list(itertools.islice(lines, limit)) if forward else list(deque(lines, limit))[::-1]
    streams: dict[str, list[list[str]]] = {}
    for time_ns, replica, text in found:
        streams.setdefault(replica, []).append([str(time_ns), text])
    result = [{"stream": {"replica": replica}, "values": values} for replica, values in streams.items()]
    return {"status": "success", "data": {"resultType": "streams", "result": result}}


def timeseries(call: Call) -> dict[str, Any]:
    """How many lines there are in each interval (`interval_ms`)."""
    start, end = _span(call)
    step = call.number("interval_ms", max(1000, (end - start) // 60_000_000), most=10**10, least=1) * 10**6
    counts: dict[int, int] = {}
    for time_ns, _, _ in _lines(call, start, end):
        bucket = start + (time_ns - start) // step * step
        counts[bucket] = counts.get(bucket, 0) + 1
    values = [[bucket // 10**9, str(count)] for bucket, count in sorted(counts.items())]
    return {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": {}, "values": values}] if values else []},
    }


def _span(call: Call) -> tuple[int, int]:
    now = time.time_ns()
    end = call.number("end", now, most=2**63 - 1)
    start = call.number("start", max(0, end - DAY_NS), most=2**63 - 1)
    if start > end:
        raise InvalidInput("the time asked for ends before it begins", received=f"{start}…{end}")
    return start, end


def _lines(call: Call, start: int, end: int) -> Iterable[tuple[int, str, str]]:
    """(time, replica, text) of all replicas asked for, in the order of time."""
    wanted, text = call.one("replica"), call.one("q") or ""
    replicas = [one for one in _replicas(_resource(call)) if one.workload and wanted in (None, "", one.id)]
    if wanted and not replicas:
        raise NotFound(f"there is no replica {wanted!r}")
    return heapq.merge(*(_of_replica(call, one, start, end, text) for one in replicas))


def _of_replica(call: Call, one: ReplicaStatus, start: int, end: int, text: str) -> Iterable[tuple[int, str, str]]:
    if call.plane.driver is None:
        raise Unavailable("this plane has no compute driver")
    try:
        for line in call.plane.driver.logs(one.workload, since_ns=start, until_ns=end):
            if start <= line.time_ns <= end and text in line.text:
                yield line.time_ns, one.id, line.text
    except NotFound:
        return  # it has not started, or its log is gone


def _resource(call: Call) -> Resource:
    for parameter, kinds in (
        ("deployment", ("endpoint",)),
        ("endpoint", ("endpoint",)),
        ("job", ("job", "finetune")),
        ("job_history_name", ("job", "finetune")),
    ):
        name = call.one(parameter)
        if not name:
            continue
        for kind in kinds:
            try:
                return call.tx.get(kind, call.workspace, name, deleted=True)
            except NotFound:
                continue
        raise NotFound(f"there is no {parameter} {name!r} in workspace {call.workspace!r}")
    raise InvalidInput("say whose logs are wanted", expected="one of deployment, endpoint, job")


def _replicas(resource: Resource) -> list[ReplicaStatus]:
    return KINDS[resource.kind].read_status(resource.status).replicas
