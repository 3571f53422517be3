"""Metadata as the API writes it, and what of it users may write. Times are ms, and ISO 8601 where the API has text."""

from __future__ import annotations

import datetime
import re
from typing import Any

from ...base.errors import Conflict, InvalidInput, did_you_mean
from ..resources.fields import KEPT
from ..store import Resource
from .merge import prune

# What clients send back of what they were given; ours to write, so it is read over.
_OURS = {
    "id", "name", "created_at", "created_by", "last_modified_by", "last_modified_at", "owner", "semantic_version", "version",
    "replica_version", "deleted_at", "lepton_metadata", "resource_version",
}  # fmt: skip
_WRITABLE = {"labels", "visibility"}
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?\Z")
MAX_LABELS = 64


def metadata(resource: Resource, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    """`metadata.version` is the generation: it moves when somebody changes the spec, not with every status."""
    return prune(
        {
            "id": id or resource.name,
            "name": name or resource.name,
            "created_at": resource.created_at,
            "version": resource.generation,
            "created_by": resource.created_by,
            "owner": resource.created_by,
            "last_modified_by": resource.modified_by,
            "last_modified_at": resource.modified_at,
            "semantic_version": resource.spec.get("semantic_version"),
            "visibility": resource.spec.get("visibility") or "public",
            "labels": resource.labels or None,
        }
    )


def own_spec(resource: Resource) -> dict[str, Any]:
    """The spec as users write it, without what the plane keeps in it."""
    return {key: value for key, value in resource.spec.items() if key not in KEPT}


def check_spec_fields(spec: dict[str, Any]) -> None:
    """Raises InvalidInput for fields that only the plane writes."""
    for field in KEPT:
        if field in spec:
            raise InvalidInput("spec has a field that is not known", received=field, fix="Remove it.")


def read_metadata(data: dict[str, Any]) -> tuple[dict[str, str] | None, str | None]:
    """(labels, visibility) that the user wants; None for what he does not mention."""
    for field in data:
        if field not in _OURS | _WRITABLE:
            raise InvalidInput(
                "metadata has a field that is not known", received=field, fix=did_you_mean(field, _OURS | _WRITABLE)
            )
    nested = data.get("lepton_metadata") or {}
    visibility = data.get("visibility") or (nested.get("visibility") if isinstance(nested, dict) else None)
    if visibility not in (None, "public", "private"):
        raise InvalidInput("this is not a visibility", received=visibility, expected="public or private")
    labels = data.get("labels")
    return (None if labels is None else check_labels(labels)), visibility


def check_labels(labels: Any) -> dict[str, str]:
    if not isinstance(labels, dict) or len(labels) > MAX_LABELS:
        raise InvalidInput(
            "these cannot be labels", received=labels, expected=f"an object of at most {MAX_LABELS} texts"
        )
    for key, value in labels.items():
        if not _LABEL.match(key) or not isinstance(value, str) or (value and not _LABEL.match(value)):
            raise InvalidInput(
                "this cannot be a label", received=f"{key}={value}", expected="letters, digits, '.', '_', '-', '/'"
            )
    return labels


def check_version(resource: Resource, data: dict[str, Any]) -> None:
    """Raises Conflict if the caller read an older generation (and says which one)."""
    version = data.get("version")
    if version is not None and version != resource.generation:
        raise Conflict(
            f"the {resource.kind} {resource.name!r} has changed since it was read",
            received=f"version {version}",
            expected=f"version {resource.generation}",
            fix="Read it again and repeat the change.",
        )


def iso(ms: int | float) -> str:
    moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
