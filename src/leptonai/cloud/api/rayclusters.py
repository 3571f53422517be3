"""Ray clusters: kept as they are asked for. Where Ray is not driven, a cluster's jobs run as plain jobs of this machine.

Ray's own job API is answered below `dashboard/`, so `lep raycluster submit-job` works: each Ray job is a job with the label
`raycluster`.
"""

from __future__ import annotations

import builtins
import re
import secrets
from typing import Any

from ...base.errors import InvalidInput, NotFound, Unavailable
from ..accounts.quotas import check_room
from ..resources.endpoint import NAME
from ..resources.job import ENDED, JobStatus
from ..resources.registry import KINDS
from ..store import Resource
from .call import Answer, Call
from .merge import merge, prune
from .metadata import check_spec_fields, check_version, iso, metadata, own_spec, read_metadata

LABEL = "raycluster"
_SUBMISSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}\Z")
# job state → Ray's
_STATES = {
    "Completed": "SUCCEEDED",
    "Failed": "FAILED",
    "Stopped": "STOPPED",
    "Archived": "STOPPED",
    "Deleted": "STOPPED",
    "Running": "RUNNING",
}
RAY_VERSION = "2.49.2"


def show(call: Call, resource: Resource) -> dict[str, Any]:
    spec = own_spec(resource)
    groups = spec.get("worker_group_specs") or []
    wanted = sum(group.get("min_replicas") or 0 for group in groups)
    stopped = bool(spec.get("suspend"))
    return {
        "metadata": metadata(resource),
        "spec": spec,
        "status": {
            "state": "Stopped" if stopped else "Ready",
            "desiredWorkerReplicas": wanted,
            "minWorkerReplicas": wanted,
            "maxWorkerReplicas": sum(group.get("max_replicas") or group.get("min_replicas") or 0 for group in groups),
            "readyWorkerReplicas": 0 if stopped else wanted,
            "availableWorkerReplicas": 0 if stopped else wanted,
            "endpoints": {},
            "lastUpdateTime": iso(resource.modified_at),
            "observedGeneration": resource.generation,
        },
    }


def list(call: Call) -> builtins.list[dict[str, Any]]:
    return [show(call, one) for one in call.tx.list("raycluster", call.workspace, limit=10_000)]


def get(call: Call) -> dict[str, Any]:
    return show(call, _cluster(call))


def _cluster(call: Call, *, lock: bool = False) -> Resource:
    return call.tx.get("raycluster", call.workspace, call.path["name"], lock=lock)


def create(call: Call) -> Answer:
    about, spec = call.object()
    name = about.get("name") or about.get("id")
    if not isinstance(name, str) or not NAME.match(name):
        raise InvalidInput(
            "this cannot be the name of a Ray cluster", received=name, expected="1 to 36 of a-z, 0-9 and '-'"
        )
    labels, visibility = read_metadata(about)
    check_spec_fields(spec)
    spec = merge({}, spec)
    KINDS["raycluster"].read_spec(spec)
    spec |= prune({"visibility": visibility})
    resource = call.tx.create("raycluster", call.workspace, name, spec, labels)
    call.tx.event(
        resource,
        "Normal",
        "PlainJobs",
        "this plane drives no Ray: jobs of the cluster run as processes of this machine",
    )
    return Answer(show(call, resource), 201)


def patch(call: Call) -> dict[str, Any]:
    """`suspend`, and worker groups by their names: a group in the patch changes the one of that name."""
    about, changes = call.object()
    resource = _cluster(call, lock=True)
    check_version(resource, about)
    labels, _ = read_metadata(about)
    check_spec_fields(changes)
    groups = changes.pop("worker_group_specs", None)
    spec = merge(resource.spec, changes)
    if groups is not None:
        spec["worker_group_specs"] = _merge_groups(resource.spec.get("worker_group_specs") or [], groups)
    KINDS["raycluster"].read_spec(spec)
    return show(call, call.tx.set_spec(resource, spec, labels))


def _merge_groups(there: builtins.list[dict[str, Any]], changes: Any) -> builtins.list[dict[str, Any]]:
    if not isinstance(changes, builtins.list) or not all(isinstance(one, dict) for one in changes):
        raise InvalidInput("spec.worker_group_specs is not right", received=changes, expected="a list of groups")
    found = {group.get("group_name"): group for group in there}
    for change in changes:
        name = change.get("group_name")
        if name not in found:
            raise InvalidInput(
                "the cluster has no such worker group", received=name, expected=", ".join(map(str, found))
            )
        found[name] = merge(found[name], change)
    return [*found.values()]


def delete(call: Call) -> Answer:
    resource = _cluster(call, lock=True)
    for job in _jobs(call):
        call.tx.mark_deleted(job)
    call.tx.purge(call.tx.mark_deleted(resource))
    return Answer({})


# -- Ray's job API


def version(call: Call) -> dict[str, Any]:
    spec = _running(call).spec
    number = spec.get("ray_version") or RAY_VERSION
    return {"version": "4", "ray_version": number, "ray_commit": "", "session_name": call.path["name"]}


def _running(call: Call) -> Resource:
    cluster = _cluster(call)
    if cluster.spec.get("suspend"):
        raise Unavailable(
            f"the Ray cluster {cluster.name!r} is stopped", fix=f"Start it: lep raycluster start -n {cluster.name}"
        )
    return cluster


def _jobs(call: Call) -> builtins.list[Resource]:
    return call.tx.list("job", call.workspace, labels={LABEL: call.path["name"]}, limit=10_000, newest_first=True)


def jobs(call: Call) -> builtins.list[dict[str, Any]]:
    _cluster(call)
    return [_show_job(one) for one in _jobs(call)]


def submit(call: Call) -> dict[str, Any]:
    cluster = _running(call)
    body = call.json(dict)
    command = body.get("entrypoint")
    if not isinstance(command, str) or not command.strip():
        raise InvalidInput("a Ray job needs an entrypoint")
    name = body.get("submission_id") or body.get("job_id") or f"raysubmit_{secrets.token_hex(8)}"
    if not isinstance(name, str) or not _SUBMISSION.match(name):
        raise InvalidInput("this cannot be the id of a Ray job", received=name, expected="letters, digits, '_', '-'")
    env = ((body.get("runtime_env") or {}).get("env_vars") or {}) if isinstance(body.get("runtime_env"), dict) else {}
    head = cluster.spec.get("head_group_spec") or {}
    spec = prune(
        {
            "container": {"image": "host", "command": ["/bin/bash", "-c", command]},
            "resource_shape": head.get("resource_shape"),
            "envs": [{"name": str(key), "value": str(value)} for key, value in env.items()] or None,
            "title": name,
        }
    )
    KINDS["job"].read_spec(spec)
    check_room(call.tx, call.workspace, "job", spec, call.plane.shapes())
    call.tx.create("job", call.workspace, name, spec, {LABEL: cluster.name})
    return {"job_id": name, "submission_id": name}


def job(call: Call) -> dict[str, Any]:
    return _show_job(_job(call))


def _job(call: Call) -> Resource:
    found = call.tx.get("job", call.workspace, call.path["job"], deleted=True)
    if found.labels.get(LABEL) != call.path["name"]:
        raise NotFound(f"the Ray cluster {call.path['name']!r} has no job {call.path['job']!r}")
    return found


def job_log(call: Call) -> dict[str, str]:
    status: JobStatus = KINDS["job"].read_status(_job(call).status)
    if call.plane.driver is None:
        raise Unavailable("this plane has no compute driver")
    lines = []
    for one in status.replicas:
        try:
            lines += [str(line) for line in call.plane.driver.logs(one.workload)]
        except NotFound:
            continue
    return {"logs": "".join(lines)}


def stop_job(call: Call) -> dict[str, bool]:
    found = _job(call)
    if found.deleted_at is not None or found.state in ENDED:
        return {"stopped": False}
    call.tx.set_spec(found, {**found.spec, "stopped": True})
    return {"stopped": True}


def _show_job(resource: Resource) -> dict[str, Any]:
    status: JobStatus = KINDS["job"].read_status(resource.status)
    return {
        "type": "SUBMISSION",
        "submission_id": resource.name,
        "job_id": None,
        "status": _STATES.get(status.state, "PENDING"),
        "entrypoint": resource.spec["container"]["command"][-1],
        "message": status.message,
        "metadata": {},
        "runtime_env": {},
        "start_time": resource.created_at,
        "end_time": status.completion_time,
        "driver_info": None,
        "replicas": [one.id for one in status.replicas],
    }
