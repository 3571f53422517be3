"""The view `/devpods`: a pod, flat, with `stopped` instead of a number of replicas."""

from __future__ import annotations

from typing import Any

from ...base.errors import InvalidInput, did_you_mean
from ..store import Resource
from . import deployments
from .call import Call
from .merge import prune
from .metadata import metadata, own_spec

_REQUIREMENT = ("resource_shape", "shared_memory_size", "affinity", "host_network")
_SAME = (
    "container", "envs", "mounts", "storage_attachments", "image_pull_secrets", "queue_config", "reservation_config",
    "user_security_context", "log", "metrics", "ingress_timeout_seconds",
)  # fmt: skip


def show(call: Call, resource: Resource) -> dict[str, Any]:
    status, spec = deployments.status_of(resource), own_spec(resource)
    state = deployments.state_of(resource, status)
    requirement = spec.get("resource_requirement") or {}
    stopped = requirement.get("min_replicas") == 0
    ports = [
        prune(
            {
                "container_port": port["container_port"],
                "host_port": port["host_port"],
                "external_url": port["external_endpoint"],
            }
        )
        for port in deployments.port_status(call, resource, status)
    ]
    return {
        "metadata": metadata(resource),
        "spec": prune(
            {
                **{field: requirement.get(field) for field in _REQUIREMENT},
                **{field: spec.get(field) for field in _SAME},
                "stopped": stopped or None,
            }
        ),
        "status": prune(
            {
                "state": "NotReady" if state == "Not Ready" else state,
                "public_ip": call.plane.address if status.ready_replicas else None,
                "external_url": call.plane.endpoint_url(resource.workspace, resource.name),
                "port_statuses": ports or None,
                "message": status.message or None,
            }
        ),
    }


def read(spec: dict[str, Any]) -> dict[str, Any]:
    known = {*_REQUIREMENT, *_SAME, "stopped"}
    for field in spec:
        if field not in known:
            raise InvalidInput("spec has a field that is not known", received=field, fix=did_you_mean(field, known))
    stopped = spec.get("stopped")
    if stopped not in (None, True, False):
        raise InvalidInput("spec.stopped is not right", received=stopped, expected="true or false")
    requirement = {**{field: spec.get(field) for field in _REQUIREMENT}, "min_replicas": 0 if stopped else 1}
    return prune(
        {"is_pod": True, "resource_requirement": prune(requirement), **{field: spec.get(field) for field in _SAME}}
    )
