"""The workspace as the client logs in to it, and workspaces as the operator makes them."""

from __future__ import annotations

from typing import Any

from ...base.errors import InvalidInput
from ..accounts import workspaces
from ..accounts.quotas import Quota
from ..accounts.workspaces import get_workspace
from ..resources.registry import KINDS
from ..resources.shapes import GIB, shape_named
from .call import Answer, Call
from .files import used_bytes
from .merge import merge


def base(call: Call) -> dict[str, Any]:
    return {
        "id": call.workspace,
        "name": call.workspace,
        "display_name": get_workspace(call.tx.connection, call.workspace).display_name,
    }


def info(call: Call) -> dict[str, Any]:
    row = get_workspace(call.tx.connection, call.workspace)
    endpoints = call.tx.list("endpoint", call.workspace, limit=10_000)
    pods = sum(bool(one.spec.get("is_pod")) for one in endpoints)
    workloads = {
        "num_photons": call.tx.count("photon", call.workspace),
        "num_deployments": len(endpoints) - pods,
        "num_jobs": call.tx.count("job", call.workspace),
        "num_pods": pods,
        "num_secrets": call.tx.count("secret", call.workspace),
        "num_image_pull_secrets": 0,
    }
    services = {"kv_store_num": 0, "queue_num": 0}
    return {
        "build_time": call.plane.version,
        "git_commit": call.plane.version,
        "workspace_name": row.name,
        "workspace_tier": "self-hosted",
        "workspace_state": row.state,
        "supported_shapes": _shapes(call),
        "workspace_disk_usage_bytes": used_bytes(call.plane.storage(call.workspace)),
        "workloads": workloads,
        "resource_quota": {"limit": _limit(call, row.settings), "used": _used(call, endpoints)},
        "service_quota": {"limit": services, "used": services},
        "features": row.settings["features"],
    }


def _shapes(call: Call) -> dict[str, Any]:
    return {
        one.name: {
            "description": one.description,
            "cpu": one.cpu,
            "memory": one.memory_bytes >> 20,
            "accelerator_type": one.accelerator_type,
            "accelerator_num": one.accelerators,
        }
        for one in call.plane.shapes().values()
    }


def _limit(call: Call, settings: dict[str, Any]) -> dict[str, Any]:
    whole = max(call.plane.shapes().values(), key=lambda one: (one.memory_bytes, one.cpu))
    quota = Quota.of(settings)
    return {
        "cpu": quota.cpu or whole.cpu,
        "memory": int(quota.memory_bytes or whole.memory_bytes) >> 20,
        "accelerator_num": quota.accelerators or max(one.accelerators for one in call.plane.shapes().values()),
    }


def _used(call: Call, endpoints: list[Any]) -> dict[str, Any]:
    """What the replicas that exist claim, by their shapes."""
    offered = call.plane.shapes()
    cpu, memory, accelerators = 0.0, 0, 0.0
    for one in [*endpoints, *call.tx.list("job", call.workspace, limit=10_000)]:
        requirement = one.spec.get("resource_requirement") or one.spec
        name = requirement.get("resource_shape")
        if name not in (None, *offered):
            continue
        running = sum(
            replica.state.lower() in ("running", "ready", "starting")
            for replica in KINDS[one.kind].read_status(one.status).replicas
        )
        shape = shape_named(name, offered)
        cpu, memory = cpu + running * shape.cpu, memory + running * (shape.memory_bytes >> 20)
        accelerators += running * shape.accelerators
    return {"cpu": round(cpu, 3), "memory": memory, "accelerator_num": accelerators}


def patch(call: Call) -> dict[str, Any]:
    """`{"display_name", "features": {…}, "quota": {…}}`: what is named is changed."""
    body = call.json(dict)
    row = get_workspace(call.tx.connection, call.workspace)
    for key in body:
        if key not in ("display_name", "features", "quota"):
            raise InvalidInput(
                "a workspace has no such setting", received=key, expected="display_name, features, quota"
            )
    settings = merge(
        merge(workspaces.DEFAULTS, row.settings), {key: body[key] for key in ("features", "quota") if key in body}
    )
    for key, default in workspaces.DEFAULTS.items():
        _check_settings(key, settings.get(key), default)
    name = body.get("display_name", row.display_name)
    if not isinstance(name, str) or not 1 <= len(name) <= 200:
        raise InvalidInput("this cannot be the name that is shown", received=name, expected="1 to 200 characters")
    workspaces.change_workspace(call.tx.connection, call.workspace, settings=settings, display_name=name)
    call.tx.audit(call.workspace, "update", "workspace", call.workspace, {"fields": sorted(body)})
    return info(call)


def _check_settings(name: str, values: Any, default: dict[str, Any]) -> None:
    if not isinstance(values, dict) or set(values) != set(default):
        raise InvalidInput(f"{name} is not right", received=values, expected=", ".join(default))
    for key, value in values.items():
        right = isinstance(value, bool) if isinstance(default[key], bool) else _is_amount(value)
        if not right:
            raise InvalidInput(f"{name}.{key} is not right", received=value, expected=type(default[key]).__name__)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2**20 * GIB


# -- the operator's: members of the workspace `default`


def list_all(call: Call) -> list[dict[str, Any]]:
    return [
        {"name": row.name, "display_name": row.display_name, "state": row.state, "created_at": row.created_at}
        for row in workspaces.list_workspaces(call.tx.connection)
    ]


def create(call: Call) -> Answer:
    """`{"name", "admin"}` → a workspace and the key of its first admin, which is in this answer and nowhere else."""
    body = call.json(dict)
    if set(body) - {"name", "admin"} or not isinstance(body.get("name"), str):
        raise InvalidInput("the body has another form", expected='{"name": NAME, "admin": NAME}')
    made = workspaces.create_workspace(
        call.tx.connection, body["name"], body.get("admin") or call.actor.name, maker=call.actor
    )
    call.tx.audit(call.workspace, "create", "workspace", body["name"])
    return Answer({"name": body["name"], "key": made.key}, 201)
