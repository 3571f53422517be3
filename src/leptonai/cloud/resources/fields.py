"""Pieces that specs share, named as the API names them. Unknown fields are refused; null means absent."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Piece(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all pieces: strict in, compact out."""


class Spec(Piece):
    """What the plane keeps beside a spec; users write it as metadata, never in the spec (`KEPT`)."""

    title: str | None = None
    """The user's name for it, where the plane gives the unique one."""
    visibility: Literal["public", "private"] | None = None
    semantic_version: str | None = None
    """MAJOR.MINOR: the major part moves with a change that needs new replicas."""
    restarted: int | None = None
    """Moves with every restart that is asked for; a new value means new replicas."""


KEPT = ("title", "visibility", "semantic_version", "restarted")


class Affinity(Piece):
    allowed_providers: list[str] | None = None
    allowed_dedicated_node_groups: list[str] | None = None
    allowed_nodes_in_node_group: list[str] | None = None


class EnvSource(Piece):
    secret_name_ref: str | None = None


class EnvVar(Piece):
    name: str
    value: str | None = None
    value_from: EnvSource | None = None


class MountOptions(Piece):
    local_cache_size_mib: int | None = None
    read_only: bool | None = None


class Mount(Piece):
    from_: str = msgspec.field(name="from")
    mount_path: str
    path: str | None = None
    mount_options: MountOptions | None = None


class DataSourceAttachment(Piece):
    mode: str
    attach_with: str | None = None
    profile_name: str | None = None


class StorageAttachment(Piece):
    data_source_name: str
    attachments: list[DataSourceAttachment] = []


class ContainerPort(Piece):
    container_port: int
    name: str | None = None
    expose_strategies: list[str] | None = None
    protocol: str | None = None
    app_protocol: str | None = None
    host_port: int | None = None
    enable_load_balancer: bool | None = None


class Container(Piece):
    """`image`: a container image, or `host` for a plain process of this machine (also if there is none but a command)."""

    image: str | None = None
    ports: list[ContainerPort] | None = None
    command: list[str] | None = None


class UserSecurityContext(Piece):
    no_specific_user: bool | None = None
    privileged: bool | None = None


class Log(Piece):
    save_termination_logs: bool | None = None
    enable_collection: bool | None = None


class Metrics(Piece):
    disable_pulling_from_replica: bool | None = None


class ReservationConfig(Piece):
    reservation_id: str | None = None
    allow_burst_to_other_reservations: bool | None = None


class QueueConfig(Piece):
    """`priority_class`: low-1000 … high-9000; the number orders the queue, higher first."""

    priority_class: str | None = None
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None

    @property
    def priority(self) -> int:
        tail = (self.priority_class or "").rpartition("-")[2]
        return int(tail) if tail.isdecimal() and len(tail) < 6 else DEFAULT_PRIORITY


DEFAULT_PRIORITY = 4000


class SegmentConfig(Piece):
    count_per_segment: int


class Authentication(Piece):
    remove_authorization_header: bool | None = None


class AuthConfig(Piece):
    lepton_workspace_token_auth: Authentication | None = None
    ip_allowlist: list[str] | None = None


class LeastRequest(Piece):
    choice_count: int | None = None


class Maglev(Piece):
    pass


class LoadBalance(Piece):
    least_request: LeastRequest | None = None
    maglev: Maglev | None = None


class Token(Piece):
    """A token of an endpoint. Kept as `sealed` (encrypted) and `sha256` (for the gateway); users send `value`."""

    value: str | None = None
    value_from: TokenSource | None = None
    sealed: str | None = None
    sha256: str | None = None


class TokenSource(Piece):
    token_name_ref: str


class SchedulingPolicy(Piece):
    replica_spread: Literal["Required", "Preferred"] | None = None


# What every kind of status has.
class ReplicaStatus(Piece):
    """One replica or worker. `workload`: its id at the compute driver; `reason` as readiness reasons of the API."""

    id: str
    workload: str = ""
    index: int = 0
    state: str = "Starting"
    ready: bool = False
    reason: str = "InProgress"
    message: str = ""
    revision: int = 0
    address: str | None = None
    ports: list[int] = []
    created_at: int = 0


class Termination(Piece):
    """How a replica ended. Times in seconds since 1970."""

    replica: str
    started_at: int
    finished_at: int
    exit_code: int
    reason: str
    message: str = ""


Details = dict[str, Any]
"""A controller's own notes in a status (revisions, attempts, …): written and read by it alone."""
