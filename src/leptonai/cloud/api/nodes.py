"""This machine as the API sees it: one node group `local` with one node; its shapes; its storage as volumes and data sources."""

from __future__ import annotations

import platform
import shutil
from typing import Any

from ...base.errors import Conflict, InvalidInput, NotFound
from ..resources.registry import KINDS
from ..store import Resource
from .call import Answer, Call
from .merge import merge, prune
from .metadata import metadata

GROUP = "local"
SCRATCH = {
    "from": "local",
    "name": "scratch",
    "size_in_gb": 0,
    "creation_mode": "none",
    "from_path": "/",
    "managed_by_lepton": True,
}
"""The workspace's own storage: what `--mount /data:/mnt:node-local` takes its folders from."""


def shapes(call: Call) -> list[dict[str, Any]]:
    groups = [name for text in call.many("node_groups") for name in text.split(",")]
    if groups and GROUP not in groups:
        return []
    return [
        {
            "metadata": {"id": one.name, "name": one.name},
            "spec": prune(
                {
                    "name": one.name,
                    "description": one.description,
                    "listable_in": ["pod", "deployment", "job"],
                    "cpu": one.cpu,
                    "memory_in_mb": one.memory_bytes >> 20,
                    "accelerator_type": one.accelerator_type or None,
                    "accelerator_num": one.accelerators or None,
                    "node_group_id": GROUP,
                }
            ),
        }
        for one in call.plane.shapes().values()
    ]


def groups(call: Call) -> list[dict[str, Any]]:
    return [_group(call)]


def group(call: Call) -> dict[str, Any]:
    _check_group(call)
    return _group(call)


def _group(call: Call) -> dict[str, Any]:
    volumes = [SCRATCH, *(one.spec for one in call.tx.list("volume", call.workspace, limit=1000))]
    return {
        "metadata": {"id": GROUP, "name": GROUP, "created_at": 0},
        "spec": {
            "workspaces": [call.workspace],
            "volumes": volumes,
            "owner": "customer",
            "desired_nodes": 1,
            "enable_object_storage": True,
        },
        "status": {"ready_nodes": 1, "quota_enabled": True},
    }


def _check_group(call: Call) -> None:
    if call.path["group"] != GROUP:
        raise NotFound(f"there is no node group {call.path['group']!r}", fix=f"This machine is the group {GROUP!r}.")


def nodes(call: Call) -> list[dict[str, Any]]:
    _check_group(call)
    resource = _resource(call)
    if call.flag("idle") and any(kind.get("allocated") for kind in resource.values()):
        return []
    name = call.plane.node
    return [
        {
            "metadata": {"id": name, "name": name, "created_at": 0},
            "spec": {
                "dedicated_node_group": GROUP,
                "machine_id": name,
                "hostname": name,
                "provider": "local",
                "resource": resource,
                "unschedulable": False,
            },
            "status": {
                "status": ["Ready"],
                "machine_stage": "ready",
                "machine_status": "Ready",
                "hostname": name,
                "workloads": _workloads(call),
            },
        }
    ]


def _resource(call: Call) -> dict[str, Any]:
    disk = shutil.disk_usage(call.plane.home.root if call.plane.home.root.exists() else "/")
    total = used = None
    if call.plane.driver is not None:
        capacity = call.plane.driver.capacity()
        total, used = capacity.total, capacity.used
    return prune(
        {
            "cpu": {"type": platform.machine(), "total": total.cpu, "allocated": used.cpu} if total else {},
            "memory": {"total": total.memory_bytes >> 20, "allocated": used.memory_bytes >> 20} if total else {},
            "gpu": {"product": "gpu", "total": total.gpus, "allocated": used.gpus} if total and total.gpus else None,
            "disk": {"total_bytes": disk.total, "used_bytes": disk.used},
            "system": {"os": platform.system(), "kernel_version": platform.release()},
        }
    )


def _workloads(call: Call) -> list[dict[str, Any]]:
    """What of this workspace runs on the node."""
    found = []
    for kind in ("endpoint", "job", "finetune"):
        for one in call.tx.list(kind, call.workspace, limit=1000):
            for replica in KINDS[kind].read_status(one.status).replicas:
                if replica.state.lower() in ("running", "ready", "starting"):
                    found.append(
                        {
                            "type": kind,
                            "name": one.name,
                            "id": one.name,
                            "replica_id": replica.id,
                            "workspace": call.workspace,
                        }
                    )
    return found


def machines(call: Call) -> list[dict[str, Any]]:
    _check_group(call)
    name = call.plane.node
    status = {
        "machine_id": name,
        "node_name": name,
        "hostname": name,
        "provider": "local",
        "status": "Ready",
        "resource": _resource(call),
    }
    return [{"metadata": {"id": name, "name": name}, "status": status}]


def reservations(call: Call) -> list[dict[str, Any]]:
    """None: one machine is shared by priority, not by reservation."""
    _check_group(call)
    return []


# -- volumes


def add_volume(call: Call) -> Answer:
    _check_group(call)
    spec = merge({}, call.json(dict))
    KINDS["volume"].read_spec(spec, "the body")
    if spec["name"] == SCRATCH["name"]:
        raise Conflict(f"the volume {spec['name']!r} is there already")
    call.tx.create("volume", call.workspace, _name(spec["name"], "volume"), spec)
    return Answer(_group(call), 201)


def remove_volume(call: Call) -> dict[str, Any]:
    _check_group(call)
    if call.path["name"] == SCRATCH["name"]:
        raise InvalidInput("this volume belongs to the machine and stays", received=SCRATCH["name"])
    _remove(call, call.tx.get("volume", call.workspace, call.path["name"], lock=True))
    return _group(call)


def _remove(call: Call, resource: Resource) -> None:
    for rule in call.tx.list("storage_rule", call.workspace, limit=10_000):
        if rule.spec["volume"] == resource.name:
            call.tx.purge(call.tx.mark_deleted(rule))
    call.tx.purge(call.tx.mark_deleted(resource))


def _name(name: Any, kind: str) -> str:
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= 100
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    ):
        raise InvalidInput(
            f"this cannot be the name of a {kind}", received=name, expected="letters, digits, '-', '_', '.'"
        )
    return name


# -- data sources: buckets


def _show_source(resource: Resource) -> dict[str, Any]:
    status = {"state": "Ready", "ready": True, "conditions": [], "pvcs": [], "summary": ""}
    return {"metadata": metadata(resource), "spec": resource.spec, "status": status}


def datasources(call: Call) -> dict[str, Any]:
    _check_group(call)
    return {"items": [_show_source(one) for one in call.tx.list("datasource", call.workspace, limit=1000)]}


def datasource(call: Call) -> dict[str, Any]:
    _check_group(call)
    return _show_source(call.tx.get("datasource", call.workspace, call.path["name"]))


def add_datasource(call: Call) -> Answer:
    _check_group(call)
    spec = _source(call, merge({}, call.json(dict)))
    return Answer(
        _show_source(call.tx.create("datasource", call.workspace, _name(spec["name"], "data source"), spec)), 201
    )


def patch_datasource(call: Call) -> dict[str, Any]:
    _check_group(call)
    resource = call.tx.get("datasource", call.workspace, call.path["name"], lock=True)
    body = call.json(dict)
    spec = _source(call, merge(resource.spec, body.get("spec", body)))
    if spec["name"] != resource.name:
        raise InvalidInput("the name of a data source cannot be changed", received=spec["name"], expected=resource.name)
    return _show_source(call.tx.set_spec(resource, spec))


def _source(call: Call, spec: dict[str, Any]) -> dict[str, Any]:
    # The workspace is the one that was authorised, whatever the body says.
    spec["workspace"] = call.workspace
    KINDS["datasource"].read_spec(spec, "the body")
    return spec


def remove_datasource(call: Call) -> Answer:
    _check_group(call)
    _remove(call, call.tx.get("datasource", call.workspace, call.path["name"], lock=True))
    return Answer({})


# -- who may use which path


def rules(call: Call) -> list[dict[str, Any]]:
    return [
        {key: one.spec.get(key) for key in ("path_prefix", "allowed_users", "subfolder_policy", "nodegroup_id")}
        for one in _rules(call)
    ]


def _rules(call: Call) -> list[Resource]:
    found = call.tx.list("storage_rule", call.workspace, limit=10_000)
    return [one for one in found if one.spec["volume"] == call.path["volume"]]


def add_rule(call: Call) -> Answer:
    """A rule, or another list of users for the path that has one."""
    spec = {"allowed_users": [], "subfolder_policy": "", **merge({}, call.json(dict)), "volume": call.path["volume"]}
    KINDS["storage_rule"].read_spec(spec, "the body")
    if spec["volume"] != SCRATCH["name"]:
        _volume(call, spec["volume"])
    spec["path_prefix"] = "/" + spec["path_prefix"].strip("/")
    same = next((one for one in _rules(call) if one.spec["path_prefix"] == spec["path_prefix"]), None)
    if same is not None:
        call.tx.set_spec(same, spec)
    else:
        call.tx.create("storage_rule", call.workspace, f"{spec['volume']}:{spec['path_prefix']}"[:250], spec)
    return Answer({key: value for key, value in spec.items() if key != "volume"}, 201)


def _volume(call: Call, name: str) -> Resource:
    try:
        return call.tx.get("volume", call.workspace, name)
    except NotFound:
        return call.tx.get("datasource", call.workspace, name)


def remove_rule(call: Call) -> Answer:
    prefix = "/" + call.path.get("path", "").strip("/")
    for rule in _rules(call):
        if rule.spec["path_prefix"] == prefix:
            call.tx.purge(call.tx.mark_deleted(rule))
            return Answer({})
    raise NotFound(f"the volume {call.path['volume']!r} has no rule for {prefix}")
