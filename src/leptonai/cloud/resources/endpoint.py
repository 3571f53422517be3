"""An endpoint: a container or command with replicas behind the gateway. A dev pod is one with `is_pod`.

`/deployments`, `/endpoints` and `/devpods` are views of this kind. The spec is that of `/deployments`.
"""

from __future__ import annotations

import re

from ...base.errors import InvalidInput
from .fields import (
    Affinity,
    AuthConfig,
    Container,
    Details,
    EnvVar,
    LoadBalance,
    Log,
    Metrics,
    Mount,
    Piece,
    QueueConfig,
    ReplicaStatus,
    ReservationConfig,
    SchedulingPolicy,
    Spec,
    StorageAttachment,
    Termination,
    Token,
    UserSecurityContext,
)

MAX_REPLICAS = 1000
NAME = re.compile(r"[a-z]([a-z0-9-]{0,34}[a-z0-9])?\Z")


class ResourceRequirement(Piece):
    """`memory` and `shared_memory_size` in MiB."""

    resource_shape: str | None = None
    cpu: float | None = None
    memory: int | None = None
    ephemeral_storage_in_gb: int | None = None
    accelerator_type: str | None = None
    accelerator_num: float | None = None
    shared_memory_size: int | None = None
    resourse_affinity: str | None = None
    affinity: Affinity | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    host_network: bool | None = None


class ScaleDown(Piece):
    """Seconds; 0 switches it off."""

    no_traffic_timeout: int | None = None
    not_ready_timeout: int | None = None


class TargetThroughput(Piece):
    qpm: float | None = None
    paths: list[str] | None = None
    methods: list[str] | None = None


class AutoScaler(Piece):
    scale_down: ScaleDown | None = None
    target_gpu_utilization_percentage: int | None = None
    target_throughput: TargetThroughput | None = None


class Readiness(Piece):
    require_approval: bool | None = None


class TcpProbe(Piece):
    port: int


class Liveness(Piece):
    initial_delay_seconds: int | None = None
    tcp: TcpProbe | None = None


class Health(Piece):
    readiness: Readiness | None = None
    liveness: Liveness | None = None


class RoutingPolicy(Piece):
    enable_header_based_replica_routing: bool | None = None


class EndpointSpec(Spec):
    container: Container | None = None
    resource_requirement: ResourceRequirement | None = None
    auto_scaler: AutoScaler | None = None
    api_tokens: list[Token] | None = None
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    storage_attachments: list[StorageAttachment] | None = None
    reservation_config: ReservationConfig | None = None
    image_pull_secrets: list[str] | None = None
    health: Health | None = None
    is_pod: bool | None = None
    user_security_context: UserSecurityContext | None = None
    log: Log | None = None
    metrics: Metrics | None = None
    routing_policy: RoutingPolicy | None = None
    queue_config: QueueConfig | None = None
    scheduling_policy: SchedulingPolicy | None = None
    auth_config: AuthConfig | None = None
    allow_unauthenticated_access: bool | None = None
    ingress_enabled: bool | None = None
    ingress_timeout_seconds: int | None = None
    load_balance_config: LoadBalance | None = None
    photon_namespace: str | None = None
    photon_id: str | None = None

    @property
    def replicas(self) -> tuple[int, int]:
        """(least, most) that are wanted."""
        wanted = self.resource_requirement or ResourceRequirement()
        least = 1 if wanted.min_replicas is None else wanted.min_replicas
        return least, max(least, wanted.max_replicas or 0)

    def check(self) -> None:
        """What types cannot say. Raises InvalidInput."""
        least, most = self.replicas
        if least < 0 or most > MAX_REPLICAS:
            raise InvalidInput(
                "the number of replicas is out of bounds", received=f"{least}…{most}", expected=f"0 to {MAX_REPLICAS}"
            )
        wanted = self.resource_requirement or ResourceRequirement()
        if wanted.max_replicas and wanted.max_replicas < least:
            raise InvalidInput("max_replicas is less than min_replicas", received=f"{wanted.max_replicas} < {least}")
        idle = self.auto_scaler and self.auto_scaler.scale_down and self.auto_scaler.scale_down.no_traffic_timeout
        if idle and idle < 60:
            raise InvalidInput(
                "no_traffic_timeout is too short", received=idle, expected="0 (off) or at least 60 seconds"
            )
        if self.ingress_timeout_seconds and not 1 <= self.ingress_timeout_seconds <= 3600:
            raise InvalidInput(
                "ingress_timeout_seconds is out of bounds", received=self.ingress_timeout_seconds, expected="1 to 3600"
            )


class EndpointStatus(Piece):
    """Written by the controller. `state` as the API's deployment states; `details` is the controller's own."""

    state: str = "Starting"
    message: str = ""
    ready_replicas: int = 0
    replicas: list[ReplicaStatus] = []
    terminations: list[Termination] = []
    desired_replicas: int | None = None
    details: Details = {}
