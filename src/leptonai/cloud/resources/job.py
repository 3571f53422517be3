"""A job: a command on `completions` workers, all at once or not at all. A fine-tune job is one with a trainer."""

from __future__ import annotations

from typing import Any

import msgspec

from ...base.errors import InvalidInput
from .fields import (
    Affinity,
    Container,
    Details,
    EnvVar,
    Log,
    Metrics,
    Mount,
    Piece,
    QueueConfig,
    ReplicaStatus,
    ReservationConfig,
    SegmentConfig,
    Spec,
    StorageAttachment,
    Termination,
    UserSecurityContext,
)

MAX_WORKERS = 1000
ENDED = ("Completed", "Failed", "Stopped", "Archived", "Deleted")


class TimeSchedule(Piece):
    """`start_at`: seconds since 1970 (milliseconds are understood)."""

    start_at: int | None = None


class JobSpec(Spec):
    """`ttl_seconds_after_finished`: from the end until the job moves to the archive. `shared_memory_size` in MiB."""

    resource_shape: str | None = None
    affinity: Affinity | None = None
    container: Container = msgspec.field(default_factory=Container)
    shared_memory_size: int | None = None
    completions: int | None = 1
    parallelism: int | None = 1
    max_failure_retry: int | None = None
    max_job_failure_retry: int | None = None
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    storage_attachments: list[StorageAttachment] | None = None
    image_pull_secrets: list[str] | None = None
    ttl_seconds_after_finished: int | None = 600
    intra_job_communication: bool | None = None
    user_security_context: UserSecurityContext | None = None
    metrics: Metrics | None = None
    log: Log | None = None
    queue_config: QueueConfig | None = None
    stopped: bool | None = None
    reservation_config: ReservationConfig | None = None
    time_schedule: TimeSchedule | None = None
    segment_config: SegmentConfig | None = None
    time_limit_s: int | None = None
    """Ours: the longest that one attempt may run."""

    def check(self) -> None:
        workers = 1 if self.completions is None else self.completions
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidInput(
                "the number of workers is out of bounds", received=workers, expected=f"1 to {MAX_WORKERS}"
            )
        if not self.container.command:
            raise InvalidInput("a job needs a command", fix="Give --command, or container.command in the file.")


class Trainer(Piece):
    id: str | None = None
    train_config: dict[str, Any] | None = None


class FinetuneSpec(JobSpec):
    trainer: Trainer | None = None

    def check(self) -> None:
        if self.trainer is None or not (self.trainer.train_config or {}).get("model_id"):
            raise InvalidInput(
                "a fine-tune job needs a model", fix="Give --model-id, or trainer.train_config.model_id in the file."
            )


class Attempt(Piece):
    """One try of a job: as the API's job history."""

    job_name: str
    state: str
    ready: int = 0
    active: int = 0
    failed: int = 0
    succeeded: int = 0
    creation_time: int | None = None
    completion_time: int | None = None


class JobStatus(Piece):
    """Written by the controller. Times in milliseconds; `state` as the API's job states."""

    state: str = "Queueing"
    message: str = ""
    ready: int = 0
    active: int = 0
    failed: int = 0
    succeeded: int = 0
    creation_time: int | None = None
    completion_time: int | None = None
    job_history: list[Attempt] = []
    replicas: list[ReplicaStatus] = []
    terminations: list[Termination] = []
    details: Details = {}
