"""Every route of the plane: method, path, the action that a key must allow, the handler. A test walks this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import (
    accounts,
    endpoints,
    files,
    finetune,
    ingress,
    jobs,
    logs,
    nodes,
    objects,
    photons,
    rayclusters,
    secrets,
    state,
    templates,
    workspace,
)
from .call import Call


@dataclass(frozen=True)
class Route:
    """`path` below a workspace, or of the server itself (`root`). `{name}` is one segment, `{name*}` the rest."""

    method: str
    path: str
    action: str
    handler: Callable[[Call], Any]
    upload: bool = False
    root: bool = False
    reads: bool = False
    """It changes nothing although its method could."""
    segments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.path.split("/")[1:]) if self.path else ())

    @property
    def changes(self) -> bool:
        return self.method not in ("GET", "HEAD") and not self.reads

    def match(self, segments: list[str]) -> dict[str, str] | None:
        values = {}
        for number, pattern in enumerate(self.segments):
            if pattern.endswith("*}"):
                values[pattern[1:-2]] = "/".join(segments[number:])
                return values if len(segments) >= number else None
            if number >= len(segments):
                return None
            if pattern.startswith("{"):
                if not segments[number]:
                    return None
                values[pattern[1:-1]] = segments[number]
            elif pattern != segments[number]:
                return None
        return values if len(segments) == len(self.segments) else None


def _workload(path: str, noun: str, view: str, *, replicas: bool = True) -> list[Route]:
    """The routes that endpoints, deployments and dev pods share, each in its own view."""
    module = endpoints.VIEWS[view]
    routes = [
        Route("GET", path, f"{noun}.read", module.list),
        Route("POST", path, f"{noun}.write", module.create),
        Route("GET", f"{path}/{{name}}", f"{noun}.read", module.get),
        Route("PATCH", f"{path}/{{name}}", f"{noun}.write", module.patch),
        Route("DELETE", f"{path}/{{name}}", f"{noun}.write", module.delete),
        Route("PUT", f"{path}/{{name}}/restart", f"{noun}.write", module.restart),
        Route("GET", f"{path}/{{name}}/events", f"{noun}.read", module.events),
    ]
    if replicas:
        routes += [
            Route("GET", f"{path}/{{name}}/replicas", f"{noun}.read", module.replicas),
            Route("GET", f"{path}/{{name}}/replicas/{{replica}}/log", "logs.read", module.replica_log),
            Route("GET", f"{path}/{{name}}/readiness", f"{noun}.read", module.readiness),
            Route("GET", f"{path}/{{name}}/termination", f"{noun}.read", module.termination),
        ]
    return routes


def _batch(path: str, noun: str, handlers: jobs.Jobs) -> list[Route]:
    return [
        Route("GET", path, f"{noun}.read", handlers.list),
        Route("POST", path, f"{noun}.write", handlers.create),
        Route("GET", f"{path}/{{name}}", f"{noun}.read", handlers.get),
        Route("PATCH", f"{path}/{{name}}", f"{noun}.write", handlers.patch),
        Route("DELETE", f"{path}/{{name}}", f"{noun}.write", handlers.delete),
        Route("GET", f"{path}/{{name}}/replicas", f"{noun}.read", handlers.replicas),
        Route("GET", f"{path}/{{name}}/events", f"{noun}.read", handlers.events),
        Route("GET", f"{path}/{{name}}/replicas/{{replica}}/log", "logs.read", handlers.replica_log),
    ]


_GROUP = "/dedicated-node-groups"

ROUTES: list[Route] = [
    Route("GET", "", "workspace.read", workspace.base),
    Route("GET", "/workspace", "workspace.read", workspace.info),
    Route("PATCH", "/workspace", "workspace.write", workspace.patch),
    Route("GET", "/tokens", "workspace.read", accounts.tokens),
    Route("GET", "/keys", "keys.read", accounts.list_keys),
    Route("POST", "/keys", "keys.write", accounts.create_key),
    Route("DELETE", "/keys/{prefix}", "keys.write", accounts.delete_key),
    Route("GET", "/members", "members.read", accounts.list_members),
    Route("POST", "/members", "members.write", accounts.add_member),
    Route("PATCH", "/members/{name}", "members.write", accounts.change_member),
    Route("DELETE", "/members/{name}", "members.write", accounts.remove_member),
    Route("GET", "/audit", "audit.read", accounts.audit),
    Route("GET", "/usage", "usage.read", accounts.usage),
    *_workload("/deployments", "endpoints", "deployment"),
    *_workload("/endpoints", "endpoints", "endpoint"),
    *_workload("/devpods", "endpoints", "devpod", replicas=False),
    *_batch("/jobs", "jobs", jobs.JOBS),
    *_batch("/finetune/jobs", "finetune", jobs.FINETUNES),
    Route("GET", "/finetune/supported-models", "finetune.read", finetune.supported_models),
    Route("GET", "/finetune/trainers", "finetune.read", finetune.trainers),
    Route("GET", "/usersecrets", "secrets.read", secrets.list),
    Route("POST", "/usersecrets", "secrets.write", secrets.create),
    Route("DELETE", "/usersecrets/{name}", "secrets.write", secrets.delete),
    Route("GET", "/secrets", "secrets.read", secrets.list),
    Route("POST", "/secrets", "secrets.write", secrets.create),
    Route("DELETE", "/secrets/{name}", "secrets.write", secrets.delete),
    Route("GET", "/ingress", "ingress.read", ingress.list),
    Route("POST", "/ingress", "ingress.write", ingress.create),
    Route("GET", "/ingress/{name}", "ingress.read", ingress.get),
    Route("PATCH", "/ingress/{name}", "ingress.write", ingress.patch),
    Route("DELETE", "/ingress/{name}", "ingress.write", ingress.delete),
    Route("POST", "/ingress/{name}/endpoint/deployment", "ingress.write", ingress.add_endpoint),
    Route("DELETE", "/ingress/{name}/endpoint/deployment/{endpoint}", "ingress.write", ingress.remove_endpoint),
    Route("GET", "/shapes", "nodes.read", nodes.shapes),
    Route("GET", _GROUP, "nodes.read", nodes.groups),
    Route("GET", f"{_GROUP}/{{group}}", "nodes.read", nodes.group),
    Route("GET", f"{_GROUP}/{{group}}/nodes", "nodes.read", nodes.nodes),
    Route("GET", f"{_GROUP}/{{group}}/machines", "nodes.read", nodes.machines),
    Route("GET", f"{_GROUP}/{{group}}/reservations", "nodes.read", nodes.reservations),
    Route("POST", f"{_GROUP}/{{group}}/volumes", "nodes.write", nodes.add_volume),
    Route("DELETE", f"{_GROUP}/{{group}}/volumes/{{name}}", "nodes.write", nodes.remove_volume),
    Route("GET", f"{_GROUP}/{{group}}/datasources", "storage.read", nodes.datasources),
    Route("POST", f"{_GROUP}/{{group}}/datasources", "nodes.write", nodes.add_datasource),
    Route("GET", f"{_GROUP}/{{group}}/datasources/{{name}}", "storage.read", nodes.datasource),
    Route("PATCH", f"{_GROUP}/{{group}}/datasources/{{name}}", "nodes.write", nodes.patch_datasource),
    Route("DELETE", f"{_GROUP}/{{group}}/datasources/{{name}}", "nodes.write", nodes.remove_datasource),
    Route("GET", "/storage-permission/{volume}", "storage.read", nodes.rules),
    Route("POST", "/storage-permission/{volume}", "nodes.write", nodes.add_rule),
    Route("DELETE", "/storage-permission/{volume}", "nodes.write", nodes.remove_rule),
    Route("DELETE", "/storage-permission/{volume}/{path*}", "nodes.write", nodes.remove_rule),
    Route("GET", "/templates/{namespace}", "templates.read", templates.list),
    Route("POST", "/templates/private", "templates.write", templates.create),
    Route("GET", "/templates/{namespace}/{name}", "templates.read", templates.get),
    Route("DELETE", "/templates/private/{name}", "templates.write", templates.delete),
    Route("POST", "/templates/{namespace}/{name}/render", "templates.read", templates.render, reads=True),
    Route("GET", "/rayclusters", "rayclusters.read", rayclusters.list),
    Route("POST", "/rayclusters", "rayclusters.write", rayclusters.create),
    Route("GET", "/rayclusters/{name}", "rayclusters.read", rayclusters.get),
    Route("PATCH", "/rayclusters/{name}", "rayclusters.write", rayclusters.patch),
    Route("DELETE", "/rayclusters/{name}", "rayclusters.write", rayclusters.delete),
    Route("GET", "/rayclusters/{name}/dashboard/api/version", "rayclusters.read", rayclusters.version),
    Route("GET", "/rayclusters/{name}/dashboard/api/jobs/", "rayclusters.read", rayclusters.jobs),
    Route("POST", "/rayclusters/{name}/dashboard/api/jobs/", "rayclusters.write", rayclusters.submit),
    Route("GET", "/rayclusters/{name}/dashboard/api/jobs/{job}", "rayclusters.read", rayclusters.job),
    Route("GET", "/rayclusters/{name}/dashboard/api/jobs/{job}/logs", "logs.read", rayclusters.job_log),
    Route("POST", "/rayclusters/{name}/dashboard/api/jobs/{job}/stop", "rayclusters.write", rayclusters.stop_job),
    Route("GET", "/logs", "logs.read", logs.query),
    Route("GET", "/logs/timeseries", "logs.read", logs.timeseries),
    Route("GET", "/storage", "storage.read", files.systems),
    Route("GET", "/storage/du", "storage.read", files.usage),
    Route("GET", "/storage/default/{path*}", "storage.read", files.get),
    Route("HEAD", "/storage/default/{path*}", "storage.read", files.head),
    Route("POST", "/storage/default/{path*}", "storage.write", files.upload, upload=True),
    Route("PUT", "/storage/default/{path*}", "storage.write", files.make_folder),
    Route("PATCH", "/storage/default/{path*}", "storage.write", files.move),
    Route("DELETE", "/storage/default/{path*}", "storage.write", files.delete),
    Route("GET", "/photons/private", "photons.read", photons.list),
    Route("POST", "/photons/private", "photons.write", photons.create, upload=True),
    Route("GET", "/photons/private/{name}", "photons.read", photons.get),
    Route("GET", "/photons/private/{name}/content", "photons.read", photons.content),
    Route("DELETE", "/photons/private/{name}", "photons.write", photons.delete),
    Route("GET", "/kv/namespaces", "storage.read", state.namespaces),
    Route("POST", "/kv/namespaces/{name}", "storage.write", state.make_namespace),
    Route("GET", "/kv/namespaces/{name}", "storage.read", state.namespace),
    Route("DELETE", "/kv/namespaces/{name}", "storage.write", state.remove_namespace),
    Route("GET", "/kv/namespaces/{name}/keys", "storage.read", state.keys),
    Route("GET", "/kv/namespaces/{name}/values/{key*}", "storage.read", state.value),
    Route("POST", "/kv/namespaces/{name}/values/{key*}", "storage.write", state.put_value, upload=True),
    Route("DELETE", "/kv/namespaces/{name}/values/{key*}", "storage.write", state.remove_value),
    Route("GET", "/queue", "storage.read", state.queues),
    Route("POST", "/queue", "storage.write", state.make_queue),
    Route("DELETE", "/queue/{name}", "storage.write", state.remove_queue),
    Route("GET", "/queue/{name}/length", "storage.read", state.length),
    # It takes the message away, so whoever may only read must not call it.
    Route("GET", "/queue/{name}/messages", "storage.write", state.receive),
    Route("POST", "/queue/{name}/messages", "storage.write", state.send),
    Route("GET", "/object_storage/{bucket}/{key*}", "storage.read", objects.get),
    Route("PUT", "/object_storage/{bucket}/{key*}", "storage.write", objects.put),
    Route("DELETE", "/object_storage/{bucket}/{key*}", "storage.write", objects.delete),
    Route("GET", "/api/v2/workspaces", "workspace.read", workspace.list_all, root=True),
    Route("POST", "/api/v2/workspaces", "workspace.write", workspace.create, root=True),
]  # fmt: skip


def find(method: str, segments: list[str], *, root: bool) -> tuple[Route | None, dict[str, str]]:
    """The route and what its path holds. One slash at the end is overlooked, as old clients write it."""
    for candidate in (segments, segments[:-1] if segments and segments[-1] == "" else None):
        if candidate is None:
            continue
        for route in ROUTES:
            if route.method == method and route.root == root:
                values = route.match(candidate)
                if values is not None:
                    return route, values
    return None, {}
