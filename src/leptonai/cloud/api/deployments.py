"""The view `/deployments`: the spec as it is kept, endpoints and pods in one list."""

from __future__ import annotations

from typing import Any

from ..control.notes import digest_of, template_of
from ..resources.endpoint import EndpointStatus
from ..resources.registry import KINDS
from ..store import Resource
from . import tokens
from .call import Call
from .merge import prune
from .metadata import metadata, own_spec

STATES = {
    "Ready", "Not Ready", "Starting", "Updating", "Scaling", "Migrating", "Stopping", "Stopped", "Deleting", "Restarting", "Error",
}  # fmt: skip


def status_of(resource: Resource) -> EndpointStatus:
    return KINDS["endpoint"].read_status(resource.status)


def state_of(resource: Resource, status: EndpointStatus) -> str:
    if resource.deleted_at is not None:
        return "Deleting"
    if status.state == "Ready" and not _is_followed(resource, status):
        return "Updating"
    return status.state if status.state in STATES else "Not Ready"


def _is_followed(resource: Resource, status: EndpointStatus) -> bool:
    """Whether the controller has seen the spec as it is. Until then an endpoint that has just been changed must not look ready."""
    digest, notes = digest_of(template_of(resource.spec)), status.details
    known = {one["digest"] for one in notes.get("revisions", ()) if one["number"] == notes.get("target")}
    return digest in known or digest in notes.get("rejected", ())


def show(call: Call, resource: Resource) -> dict[str, Any]:
    return {
        "metadata": metadata(resource),
        "spec": tokens.unseal(call, resource.name, own_spec(resource)),
        "status": _status(call, resource),
    }


def _status(call: Call, resource: Resource) -> dict[str, Any]:
    status = status_of(resource)
    state = state_of(resource, status)
    url = call.plane.endpoint_url(resource.workspace, resource.name)
    return prune(
        {
            "state": state,
            "phase": state,
            "endpoint": {"internal_endpoint": url, "external_endpoint": url},
            "ready_replicas": status.ready_replicas,
            "container_port_status": port_status(call, resource, status) or None,
            "autoscaler_status": autoscaler(status),
            "public_ip": call.plane.address if resource.spec.get("is_pod") and status.ready_replicas else None,
            "message": status.message or None,
        }
    )


def autoscaler(status: EndpointStatus) -> dict[str, Any] | None:
    return None if status.desired_replicas is None else {"desired_replicas": status.desired_replicas, "conditions": []}


def port_status(call: Call, resource: Resource, status: EndpointStatus) -> list[dict[str, Any]]:
    """Where the ports of a pod are on this machine."""
    if not resource.spec.get("is_pod"):
        return []
    ports = (resource.spec.get("container") or {}).get("ports") or []
    real = status.replicas[0].ports if status.replicas else []
    found = []
    for port, host_port in zip(ports, real, strict=False):
        found.append(
            prune(
                {
                    "name": port.get("name"),
                    "container_port": port["container_port"],
                    "host_port": host_port,
                    "protocol": port.get("protocol") or "TCP",
                    "external_endpoint": f"{call.plane.address}:{host_port}",
                }
            )
        )
    return found


def read(spec: dict[str, Any]) -> dict[str, Any]:
    """From the view to the kept spec: the same."""
    return spec
