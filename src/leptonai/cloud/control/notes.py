"""What the rollout of an endpoint remembers (`status.details`), what it looks at, and what it decides. Owns no rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ...base.structs import prepare
from ..compute.driver import Observation
from ..gateway.traffic import EndpointTraffic, RevisionTraffic
from . import scaling
from .verdict import Speed

# Fields of the spec that a running replica was made from: a change of them is a new revision.
_TEMPLATE = (
    "container", "envs", "mounts", "storage_attachments", "image_pull_secrets", "user_security_context", "health", "queue_config",
    "restarted", "photon_namespace", "photon_id",
)  # fmt: skip
_NOT_TEMPLATE = ("min_replicas", "max_replicas", "affinity", "resourse_affinity")

Phase = Literal["starting", "ready", "draining", "stopping"]


class ReplicaNote(msgspec.Struct, omit_defaults=True):
    """Times in milliseconds since 1970. `since`: of the phase."""

    serial: int
    revision: int
    created: int
    phase: Phase = "starting"
    since: int = 0
    ports: list[int] = []
    drain_version: int = 0
    """The endpoint's version from which on routes say that it drains."""
    dead: bool = False
    """It took requests and answers its probe no more."""

    @property
    def alive(self) -> bool:
        return self.phase in ("starting", "ready")


class RevisionNote(msgspec.Struct, omit_defaults=True):
    """`template`: the part of the spec that its replicas are made from. `author`: whose secrets it may see."""

    number: int
    digest: str
    template: dict[str, Any] = {}
    author: str = ""
    crashes: int = 0
    ready_s: float = 0.0
    """The longest that one of its replicas took from the start of its process until it answered its probe."""


class Notes(msgspec.Struct, omit_defaults=True):
    """`status.details` of an endpoint. `stable`: the revision to return to, 0 for none yet; `target`: the one to be at."""

    revisions: list[RevisionNote] = []
    stable: int = 0
    target: int = 0
    rejected: list[str] = []
    """Digests of revisions that came back; the same spec is not tried again."""
    replicas: list[ReplicaNote] = []
    serial: int = 0
    seen_since: int = 0
    """When the target's first replica took requests."""
    complete_since: int = 0
    baseline: RevisionTraffic | None = None
    """The stable revision's counts at that time."""
    speed: Speed = msgspec.field(default_factory=Speed)
    crashes: int = 0
    not_before: int = 0
    message: str = ""
    scale: scaling.Scale = msgspec.field(default_factory=scaling.Scale)


prepare(Notes)


@dataclass(frozen=True)
class Facts:
    """What is. `probes`: answers per serial, absent if not asked; `silent_s`: for how long one that took requests has not answered
    its probe. `drained(serial, version)`: no worker has it in use any more."""

    now: int
    version: int
    author: str
    workloads: Mapping[str, Observation]
    probes: Mapping[int, bool]
    traffic: EndpointTraffic
    drained: Callable[[int, int], bool]
    silent_s: Mapping[int, float] = field(default_factory=dict)


@dataclass
class Plan:
    notes: Notes
    launch: list[ReplicaNote] = field(default_factory=list)
    stop: list[ReplicaNote] = field(default_factory=list)
    wait_s: float | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def warn(self, reason: str, message: str) -> None:
        self.events.append(("Warning", reason, message))

    def tell(self, reason: str, message: str) -> None:
        self.events.append(("Normal", reason, message))


def workload_id(uid: str, serial: int) -> str:
    return f"{uid[:16]}-{serial}"


def replica_name(endpoint: str, serial: int) -> str:
    return f"{endpoint}-{serial}"


def template_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec whose change means new replicas."""
    found = {key: spec[key] for key in _TEMPLATE if spec.get(key) is not None}
    needs = {
        k: v for k, v in (spec.get("resource_requirement") or {}).items() if k not in _NOT_TEMPLATE and v is not None
    }
    return found | ({"resource_requirement": needs} if needs else {})


def digest_of(template: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(template, order="sorted")).hexdigest()[:16]


def revision(notes: Notes, number: int) -> RevisionNote:
    return next(one for one in notes.revisions if one.number == number)


def is_rejected(notes: Notes, one: ReplicaNote) -> bool:
    return revision(notes, one.revision).digest in notes.rejected


def is_rolling(notes: Notes) -> bool:
    return bool(notes.stable) and notes.target != notes.stable
