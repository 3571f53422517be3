"""Ingresses: a domain whose requests are split over endpoints by weight. The gateway reads them from the store's route table."""

from __future__ import annotations

import builtins
import re
import secrets
from typing import Any

from ...base.errors import Conflict, InvalidInput, NotFound
from ..resources.registry import KINDS
from ..store import Resource
from .call import Answer, Call
from .merge import merge
from .metadata import check_spec_fields, check_version, metadata, own_spec, read_metadata

_DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+\Z")


def show(call: Call, resource: Resource) -> dict[str, Any]:
    target = call.plane.address
    return {
        "metadata": metadata(resource),
        "spec": own_spec(resource),
        "status": {
            "validation_status": "active",
            "message": resource.status.get("message") or "",
            "expected_cname_target": target,
        },
        "expected_cname_target": target,
    }


def list(call: Call) -> builtins.list[dict[str, Any]]:
    return [show(call, one) for one in call.tx.list("ingress", call.workspace, limit=10_000)]


def get(call: Call) -> dict[str, Any]:
    return show(call, call.tx.get("ingress", call.workspace, call.path["name"]))


def create(call: Call) -> Answer:
    about, spec = call.object()
    labels, visibility = read_metadata(about)
    spec = _checked(call, merge({}, spec), None)
    for other in call.tx.list("ingress", None, limit=10_000):
        if other.spec["domain_name"] == spec["domain_name"]:
            raise Conflict(f"the domain {spec['domain_name']!r} is taken")
    if visibility:
        spec["visibility"] = visibility
    name = f"ing-{secrets.token_hex(4)}"
    return Answer(show(call, call.tx.create("ingress", call.workspace, name, spec, labels)), 201)


def patch(call: Call) -> dict[str, Any]:
    about, changes = call.object()
    resource = call.tx.get("ingress", call.workspace, call.path["name"], lock=True)
    check_version(resource, about)
    labels, visibility = read_metadata(about)
    check_spec_fields(changes)
    spec = _checked(call, merge(resource.spec, changes), resource)
    if visibility:
        spec["visibility"] = visibility
    return show(call, call.tx.set_spec(resource, spec, labels))


def delete(call: Call) -> Answer:
    resource = call.tx.get("ingress", call.workspace, call.path["name"], lock=True)
    # The route table is made from what lives; nothing else is to be stopped.
    call.tx.mark_deleted(resource)
    return Answer({})


def add_endpoint(call: Call) -> dict[str, Any]:
    """Add an endpoint, or give one that is there another weight."""
    target = call.json(dict)
    resource = call.tx.get("ingress", call.workspace, call.path["name"], lock=True)
    others = [one for one in resource.spec.get("endpoints") or [] if one.get("deployment") != target.get("deployment")]
    return show(
        call, call.tx.set_spec(resource, _checked(call, {**resource.spec, "endpoints": [*others, target]}, resource))
    )


def remove_endpoint(call: Call) -> dict[str, Any]:
    resource = call.tx.get("ingress", call.workspace, call.path["name"], lock=True)
    there = resource.spec.get("endpoints") or []
    left = [one for one in there if one.get("deployment") != call.path["endpoint"]]
    if len(left) == len(there):
        raise NotFound(f"the ingress {resource.name!r} has no endpoint {call.path['endpoint']!r}")
    return show(call, call.tx.set_spec(resource, {**resource.spec, "endpoints": left}))


def _checked(call: Call, spec: dict[str, Any], before: Resource | None) -> dict[str, Any]:
    KINDS["ingress"].read_spec(spec)
    domain = spec["domain_name"].lower().rstrip(".")
    if not _DOMAIN.match(domain):
        raise InvalidInput(
            "this cannot be a domain", received=spec["domain_name"], expected="a name like api.example.com"
        )
    if before is not None and domain != before.spec["domain_name"]:
        raise InvalidInput("the domain of an ingress cannot be changed", fix="Make another ingress.")
    return {**spec, "domain_name": domain}
