"""Replicas as every kind shows them: where they are, whether they are ready, how they ended, what they say, what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...base.errors import NotFound, Unavailable
from ..resources.fields import ReplicaStatus, Termination
from ..store import Resource
from .call import Answer, Call
from .metadata import iso

REASONS = {
    "Ready", "InProgress", "Deleting", "Deleted", "NoCapacity", "ConfigError", "SystemError", "RequireReadinessApproval",
    "Queueing", "Unknown",
}  # fmt: skip


def show(call: Call, replicas: Sequence[ReplicaStatus]) -> list[dict[str, Any]]:
    return [
        {
            "metadata": {"id": one.id, "name": one.id, "created_at": one.created_at},
            "id": one.id,
            "status": {
                "public_ip": call.plane.address,
                "node": {"name": call.plane.node, "id": call.plane.node},
                "domains": [],
                "state": one.state,
                "ready": one.ready,
            },
        }
        for one in replicas
    ]


def readiness(replicas: Sequence[ReplicaStatus]) -> dict[str, list[dict[str, str]]]:
    return {
        one.id: [
            {
                "reason": "Ready" if one.ready else one.reason if one.reason in REASONS else "Unknown",
                "message": one.message,
                "creationTimestamp": iso(one.created_at),
            }
        ]
        for one in replicas
    }


def terminations(ended: Sequence[Termination]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in ended:
        found.setdefault(one.replica, []).append(
            {
                "started_at": one.started_at,
                "finished_at": one.finished_at,
                "exit_code": one.exit_code,
                "reason": one.reason,
                "message": one.message,
            }
        )
    return found


def events(call: Call, resource: Resource) -> list[dict[str, Any]]:
    regarding = {"kind": resource.kind, "name": resource.name}
    return [
        {
            "type": row.type,
            "reason": row.reason,
            "message": row.message,
            "regarding": regarding,
            "count": row.count,
            "first_observed_time": iso(row.first_at),
            "last_observed_time": iso(row.last_at),
        }
        for row in call.tx.events(resource)
    ]


def live_log(call: Call, replicas: Sequence[ReplicaStatus]) -> Answer:
    """What the replica wrote so far and, while it runs, what it writes."""
    wanted = call.path["replica"]
    workload = next((one.workload for one in replicas if one.id == wanted), None)
    if not workload:
        raise NotFound(f"there is no replica {wanted!r}", fix="List those there are with `lep … replicas`.")
    if call.plane.driver is None:
        raise Unavailable("this plane has no compute driver")
    if hasattr(call.plane.driver, "follow"):  # on the event loop: no thread for each one who reads along
        return Answer(lines=_texts_async(call.plane.driver.follow(workload)))
    return Answer(lines=_texts(call.plane.driver.logs(workload, follow=True)))


def _texts(lines: Iterator[Any]) -> Iterator[str]:
    for line in lines:
        yield str(line)


async def _texts_async(lines: Any) -> Any:
    async for batch in lines:
        yield "".join(map(str, batch))
