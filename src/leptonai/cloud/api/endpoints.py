"""Endpoints and pods: create, read, change, restart, delete, in three views of the same resources."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...base.errors import InvalidInput, NotFound
from ..accounts.quotas import check_room
from ..accounts.secrets import check_references
from ..accounts.workspaces import get_workspace
from ..resources.endpoint import NAME
from ..resources.registry import KINDS
from ..resources.shapes import shape_named
from ..store import Resource
from ..store.transaction import now_ms
from . import deployments, devpods, httpendpoints, replicas, tokens
from .call import Answer, Call
from .merge import merge, prune
from .metadata import check_spec_fields, check_version, read_metadata

KIND = KINDS["endpoint"]
DEFAULT_PORT = 40000
"""What the client's own default is for a container that names no port."""
# A change of these needs new replicas; others are followed in place.
_ROLLING = (
    "container", "envs", "mounts", "storage_attachments", "image_pull_secrets", "health", "user_security_context",
    "photon_namespace", "photon_id", "restarted",
)  # fmt: skip
_ROLLING_REQUIREMENT = (
    "resource_shape",
    "cpu",
    "memory",
    "accelerator_type",
    "accelerator_num",
    "shared_memory_size",
    "affinity",
)


@dataclass(frozen=True)
class View:
    """One generation's words. `shape`: its `show` and `read`; `pods`: whether it holds pods (None: both)."""

    shape: ModuleType
    pods: bool | None

    def _find(self, call: Call, *, lock: bool = False) -> Resource:
        resource = call.tx.get("endpoint", call.workspace, call.path["name"], lock=lock)
        if self.pods is not None and bool(resource.spec.get("is_pod")) != self.pods:
            raise NotFound(
                f"there is no {'pod' if self.pods else 'endpoint'} {call.path['name']!r} in workspace {call.workspace!r}"
            )
        return resource

    def list(self, call: Call) -> builtins.list[dict[str, Any]]:
        """All of them, or a page with `page` and `page_size`."""
        page, size = call.number("page", 1, least=1), call.number("page_size", 10_000, least=1)
        found = call.tx.list(
            "endpoint",
            call.workspace,
            limit=size,
            offset=(page - 1) * size,
            states=call.many("status"),
            created_by=call.many("created_by"),
            search=call.one("q"),
        )
        return [
            self.shape.show(call, one)
            for one in found
            if self.pods is None or bool(one.spec.get("is_pod")) == self.pods
        ]

    def get(self, call: Call) -> dict[str, Any]:
        return self.shape.show(call, self._find(call))

    def create(self, call: Call) -> Answer:
        about, spec = call.object()
        name = about.get("name") or about.get("id")
        if not isinstance(name, str) or not NAME.match(name):
            raise InvalidInput(
                "this cannot be the name of an endpoint",
                received=name,
                expected="1 to 36 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
            )
        labels, visibility = read_metadata(about)
        check_spec_fields(spec)
        spec = self.shape.read(merge({}, spec))
        settings = get_workspace(call.tx.connection, call.workspace).settings
        spec = tokens.with_default(call, spec, settings["features"]["enable_secure_endpoint_defaults"])
        spec = tokens.seal(call, name, _with_port(spec))
        self._check(call, spec)
        check_room(call.tx, call.workspace, "endpoint", spec, call.plane.shapes())
        spec |= prune({"visibility": visibility, "semantic_version": "1.0"})
        resource = call.tx.create("endpoint", call.workspace, name, spec, labels)
        return Answer(self.shape.show(call, resource), 201)

    def patch(self, call: Call) -> dict[str, Any]:
        about, patch = call.object()
        resource = self._find(call, lock=True)
        check_version(resource, about)
        labels, visibility = read_metadata(about)
        check_spec_fields(patch)
        wanted = merge(self.shape.show(call, resource)["spec"], patch)
        # What this view cannot show stays as it is.
        hidden = {key: value for key, value in resource.spec.items() if key not in self._shown(call, resource)}
        spec = tokens.seal(call, resource.name, self.shape.read(wanted), resource.spec)
        spec = {**hidden, **spec}
        self._check(call, spec)
        check_room(call.tx, call.workspace, "endpoint", spec, call.plane.shapes(), resource.uid)
        if visibility:
            spec["visibility"] = visibility
        spec["semantic_version"] = _next_version(resource.spec, spec)
        resource = call.tx.set_spec(resource, spec, labels)
        return self.shape.show(call, resource)

    def _shown(self, call: Call, resource: Resource) -> set[str]:
        return set(self.shape.read(self.shape.show(call, resource)["spec"]))

    def _check(self, call: Call, spec: dict[str, Any]) -> None:
        KIND.read_spec(spec)
        check_references(call.tx, call.workspace, spec.get("envs"))
        requirement = spec.get("resource_requirement") or {}
        if requirement.get("resource_shape"):
            shape_named(requirement["resource_shape"], call.plane.shapes())

    def delete(self, call: Call) -> Answer:
        resource = self._find(call, lock=True)
        call.tx.event(resource, "Normal", "Deleting", f"deleted by {call.actor.name}")
        call.tx.mark_deleted(resource)
        return Answer({})

    def restart(self, call: Call) -> dict[str, Any]:
        resource = self._find(call, lock=True)
        spec = {**resource.spec, "restarted": now_ms()}
        spec["semantic_version"] = _next_version(resource.spec, spec)
        resource = call.tx.set_spec(resource, spec)
        call.tx.event(resource, "Normal", "Restarting", f"restart asked for by {call.actor.name}")
        return self.shape.show(call, resource)

    def events(self, call: Call) -> builtins.list[dict[str, Any]]:
        return replicas.events(call, self._find(call))

    def replicas(self, call: Call) -> builtins.list[dict[str, Any]]:
        return replicas.show(call, deployments.status_of(self._find(call)).replicas)

    def replica_log(self, call: Call) -> Answer:
        return replicas.live_log(call, deployments.status_of(self._find(call)).replicas)

    def readiness(self, call: Call) -> dict[str, Any]:
        return replicas.readiness(deployments.status_of(self._find(call)).replicas)

    def termination(self, call: Call) -> dict[str, Any]:
        return replicas.terminations(deployments.status_of(self._find(call)).terminations)


VIEWS = {
    "deployment": View(deployments, None),
    "endpoint": View(httpendpoints, False),
    "devpod": View(devpods, True),
}


def _with_port(spec: dict[str, Any]) -> dict[str, Any]:
    container = spec.get("container")
    if spec.get("is_pod") or not isinstance(container, dict) or container.get("ports"):
        return spec
    return {**spec, "container": {**container, "ports": [{"container_port": DEFAULT_PORT}]}}


def _next_version(before: dict[str, Any], after: dict[str, Any]) -> str:
    """MAJOR.MINOR after this change: major when it needs new replicas, minor otherwise, the same when nothing changes."""
    major, _, minor = (before.get("semantic_version") or "1.0").partition(".")
    old, new = before.get("resource_requirement") or {}, after.get("resource_requirement") or {}
    if any(before.get(field) != after.get(field) for field in _ROLLING) or any(
        old.get(field) != new.get(field) for field in _ROLLING_REQUIREMENT
    ):
        return f"{int(major) + 1}.0"
    return f"{major}.{minor}" if before == after else f"{major}.{int(minor or 0) + 1}"
