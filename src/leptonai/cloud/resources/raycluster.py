"""A Ray cluster: a head and groups of workers."""

from __future__ import annotations

from typing import Any

from ...base.errors import InvalidInput
from .fields import (
    Affinity,
    Container,
    EnvVar,
    Mount,
    Piece,
    QueueConfig,
    ReservationConfig,
    SegmentConfig,
    Spec,
    UserSecurityContext,
)


class GroupSpec(Piece):
    accelerator_fraction: float | None = None
    accelerator_memory: int | None = None
    accelerator_num: float | None = None
    accelerator_pass_all: bool | None = None
    accelerator_type: str | None = None
    affinity: Affinity | None = None
    cpu: float | None = None
    memory: int | None = None
    ephemeral_storage_in_gb: int | None = None
    shared_memory_size: int | None = None
    host_network: bool | None = None
    enable_rdma: bool | None = None
    is_adaptive: bool | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    resource_shape: str | None = None
    container: Container | None = None
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    queue_config: QueueConfig | None = None
    user_security_context: UserSecurityContext | None = None
    reservation_config: ReservationConfig | None = None
    segment_config: SegmentConfig | None = None


class WorkerGroupSpec(GroupSpec):
    group_name: str | None = None


class Autoscaler(Piece):
    ray_worker_idle_timeout: int | None = None


class RayClusterSpec(Spec):
    image: str | None = None
    image_pull_secrets: list[str] | None = None
    ray_version: str | None = None
    suspend: bool | None = None
    head_group_spec: GroupSpec | None = None
    worker_group_specs: list[WorkerGroupSpec] | None = None
    autoscaler: Autoscaler | None = None

    def check(self) -> None:
        names = [group.group_name for group in self.worker_group_specs or []]
        if len(set(names)) < len(names):
            raise InvalidInput("two worker groups have the same name", received=", ".join(map(str, names)))


class RayClusterStatus(Piece):
    state: str = "Starting"
    message: str = ""
    details: dict[str, Any] = {}
