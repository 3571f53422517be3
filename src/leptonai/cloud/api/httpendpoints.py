"""The view `/endpoints`: the same endpoint, its container as the one component of a list."""

from __future__ import annotations

from typing import Any

from ...base.errors import InvalidInput, did_you_mean
from ..store import Resource
from . import deployments, tokens
from .call import Call
from .merge import prune
from .metadata import metadata, own_spec

COMPONENT = "default"
# component field → where it is in the kept spec
_CONTAINER = ("image", "command", "ports")
_REQUIREMENT = ("resource_shape", "min_replicas", "max_replicas", "shared_memory_size", "affinity", "host_network")
_SAME = (
    "envs", "mounts", "storage_attachments", "scheduling_policy", "queue_config", "reservation_config", "health",
    "user_security_context",
)  # fmt: skip
_COMPONENT_FIELDS = {"name", "frontend", "autoscaling", *_CONTAINER, *_REQUIREMENT, *_SAME}
# endpoint field → kept field
_LEVEL = {
    "ingress_enabled": "ingress_enabled",
    "ingress_timeout_seconds": "ingress_timeout_seconds",
    "allow_unauthenticated_access": "allow_unauthenticated_access",
    "access_config": "auth_config",
    "api_tokens": "api_tokens",
    "routing_policy": "routing_policy",
    "load_balancing": "load_balance_config",
    "log": "log",
    "metrics": "metrics",
    "image_pull_secrets": "image_pull_secrets",
}
_STATES = {"Not Ready": "NotReady", "Restarting": "Updating", "Migrating": "Updating"}


def show(call: Call, resource: Resource) -> dict[str, Any]:
    status = deployments.status_of(resource)
    state = deployments.state_of(resource, status)
    about = metadata(resource)
    nested = {
        key: about.get(key)
        for key in ("owner", "created_by", "last_modified_by", "last_modified_at", "visibility", "labels")
    }
    return {
        "metadata": prune(
            {
                **{key: about.get(key) for key in ("name", "created_at", "version", "semantic_version")},
                "deleted_at": resource.deleted_at,
                "lepton_metadata": prune(nested),
            }
        ),
        "spec": _spec(tokens.unseal(call, resource.name, own_spec(resource))),
        "status": prune(
            {
                "state": _STATES.get(state, state),
                "external_url": call.plane.endpoint_url(resource.workspace, resource.name),
                "ready_replicas": status.ready_replicas,
                "auto_scaler_status": deployments.autoscaler(status),
                "message": status.message or None,
            }
        ),
    }


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    container, requirement = spec.get("container") or {}, spec.get("resource_requirement") or {}
    component = {
        "name": COMPONENT,
        **{field: container.get(field) for field in _CONTAINER},
        **{field: requirement.get(field) for field in _REQUIREMENT},
        **{field: spec.get(field) for field in _SAME},
        "autoscaling": spec.get("auto_scaler"),
    }
    return {"components": [prune(component)], **prune({field: spec.get(kept) for field, kept in _LEVEL.items()})}


def read(spec: dict[str, Any]) -> dict[str, Any]:
    """From the view to the kept spec. Raises InvalidInput for what one container cannot mean."""
    for field in spec:
        if field not in _LEVEL and field != "components":
            raise InvalidInput(
                "spec has a field that is not known", received=field, fix=did_you_mean(field, [*_LEVEL, "components"])
            )
    components = spec.get("components") or []
    if not isinstance(components, list) or len(components) != 1 or not isinstance(components[0], dict):
        raise InvalidInput(
            "an endpoint has one component here",
            received=f"{len(components) if isinstance(components, list) else components}",
        )
    component = components[0]
    for field in component:
        if field not in _COMPONENT_FIELDS:
            raise InvalidInput(
                "spec.components[0] has a field that is not known",
                received=field,
                fix=did_you_mean(field, _COMPONENT_FIELDS),
            )
    kept = {
        "container": prune({field: component.get(field) for field in _CONTAINER}) or None,
        "resource_requirement": prune({field: component.get(field) for field in _REQUIREMENT}) or None,
        **{field: component.get(field) for field in _SAME},
        "auto_scaler": component.get("autoscaling"),
        **{kept: spec.get(field) for field, kept in _LEVEL.items()},
    }
    return prune(kept)
