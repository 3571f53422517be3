"""Jobs: makes workers follow `job_plan`. Owns the order of acts: first the status is written, then workloads are touched."""

from __future__ import annotations

import time

import msgspec

from ...base.errors import InvalidInput, LeptonError, NotFound, Refused, Unavailable
from ..compute.driver import Observation, Resources, Workload
from ..resources.fields import QueueConfig, ReplicaStatus, Termination
from ..resources.job import Attempt, FinetuneSpec, JobSpec, JobStatus
from ..store import Resource
from ..store.transaction import now_ms
from .context import UID, Context
from .job_plan import GRACE_S, Notes, Plan, Worker, current, is_gang, plan, start_at_ms, worker_count

MAX_HISTORY, MAX_REPLICAS, MAX_TERMINATIONS = 50, 1000, 100
ARCHIVE_S = 7 * 86400
"""How long a job that was removed, or whose time after the end is over, is kept with its logs."""
_REASONS = {"queued": "Queueing", "starting": "InProgress", "running": "Ready", "exited": "Deleted", "lost": "Deleted"}


class JobController:
    def __init__(self, context: Context):
        self.context = context

    def reconcile(self, resource: Resource) -> float | None:
        workloads = self._workloads(resource)
        spec = msgspec.convert(resource.spec, FinetuneSpec if resource.kind == "finetune" else JobSpec)
        if resource.deleted_at is not None:  # the archive: nothing runs there
            spec = msgspec.structs.replace(spec, stopped=True)
        status = msgspec.convert(resource.status, JobStatus)
        notes = msgspec.convert(status.details, Notes)
        todo = plan(spec, notes, resource.uid, workloads, now_ms())
        resource = self._write(resource, spec, status, todo, workloads)
        for id in todo.stop:
            self.context.driver.stop(id, GRACE_S)
        self._launch(resource, spec, todo)
        if resource.deleted_at is not None and todo.notes.phase == "ended" and not todo.stop:
            return self._keep(resource, workloads)
        if todo.archive:
            with self.context.transaction() as tx:
                tx.event(resource, "Normal", "Archived", "its time after the end is over")
                tx.mark_deleted(resource)
        return todo.wait_s

    def _workloads(self, resource: Resource) -> dict[str, Observation]:
        seen = self.context.driver.observe(f"{resource.workspace}/{resource.kind}/{resource.name}")
        return {id: one for id, one in seen.items() if one.labels.get(UID) == resource.uid}

    def _keep(self, resource: Resource, workloads: dict[str, Observation]) -> float | None:
        """Row, logs and files stay in the archive for a while."""
        left_ms = (resource.deleted_at or 0) + ARCHIVE_S * 1000 - now_ms()
        if left_ms > 0:
            return left_ms / 1000
        for id in workloads:
            self.context.driver.forget(id)
        with self.context.transaction() as tx:
            tx.purge(resource)
        return None

    # -- status

    def _write(
        self, resource: Resource, spec: JobSpec, old: JobStatus, todo: Plan, workloads: dict[str, Observation]
    ) -> Resource:
        status = describe(resource, spec, old, todo, workloads)
        value = msgspec.to_builtins(status) | {"state": status.state}  # the column by which jobs are found
        if value == resource.status and not todo.events:
            return resource
        with self.context.transaction() as tx:
            for type, reason, message in todo.events:
                tx.event(resource, type, reason, message)
            return tx.set_status(resource, value)

    # -- acts

    def _launch(self, resource: Resource, spec: JobSpec, todo: Plan) -> None:
        if not todo.launch:
            return
        try:
            workloads = [self._workload(resource, spec, todo.notes, worker) for worker in todo.launch]
            for workload in workloads:
                self.context.driver.launch(workload)
        except (InvalidInput, NotFound, Refused, Unavailable) as error:
            self._cannot_start(resource, spec, todo, error)

    def _cannot_start(self, resource: Resource, spec: JobSpec, todo: Plan, error: LeptonError) -> None:
        """What is wanted cannot be had on this machine; that is an end, not something to try for ever."""
        notes = todo.notes
        notes.phase, notes.verdict, notes.message = "ending", "Failed", str(error)
        failed = Plan(notes, events=[("Warning", "ConfigError", str(error))])
        self._write(resource, spec, msgspec.convert(resource.status, JobStatus), failed, self._workloads(resource))

    def _workload(self, resource: Resource, spec: JobSpec, notes: Notes, worker: Worker) -> Workload:
        if not spec.container.command:
            raise _no_command(resource, spec)
        resources = self.context.resources(spec.resource_shape)
        gang, queue = is_gang(spec), spec.queue_config or QueueConfig()
        declared = tuple(port.container_port for port in spec.container.ports or [])
        return Workload(
            id=worker.id(resource.uid),
            workspace=resource.workspace,
            owner=f"{resource.kind}/{resource.name}",
            command=tuple(spec.container.command),
            image=spec.container.image,
            env=self.context.environment(resource) | job_env(resource, spec, notes, worker, resources),
            resources=resources,
            ports=max(len(declared), 1 if worker_count(spec) > 1 else 0),
            container_ports=declared,
            mounts=self.context.mounts(resource, spec.mounts),
            gang=f"a{worker.attempt}" if gang else None,
            # A worker that is started again joins a gang that runs.
            gang_size=worker_count(spec) if gang and worker.retry == 0 else 1,
            index=worker.index,
            time_limit_s=spec.time_limit_s,
            grace_s=GRACE_S,
            priority=queue.priority,
            preemptible=bool(queue.can_be_preempted),
            can_preempt=bool(queue.can_preempt),
            labels={
                UID: resource.uid,
                "index": str(worker.index),
                "attempt": str(worker.attempt),
                "retry": str(worker.retry),
            },
        )


def _no_command(resource: Resource, spec: JobSpec) -> LeptonError:
    if isinstance(spec, FinetuneSpec) and spec.trainer is not None:
        model = (spec.trainer.train_config or {}).get("model_id")
        return Unavailable(
            f"no trainer of this machine can fine-tune {model!r}",
            fix="Give the command that does it as container.command, or use `lep train` with a recipe.",
        )
    return InvalidInput(f"the {resource.kind} {resource.name!r} has no command", fix="Give --command.")


def job_env(resource: Resource, spec: JobSpec, notes: Notes, worker: Worker, resources: Resources) -> dict[str, str]:
    """What a worker knows about itself, by the names that jobs of this API know."""
    return {
        "LEPTON_WORKSPACE_ID": resource.workspace,
        "LEPTON_JOB_NAME": resource.name,
        "LEPTON_JOB_WORKER_INDEX": str(worker.index),
        "LEPTON_JOB_TOTAL_WORKERS": str(worker_count(spec)),
        "LEPTON_JOB_WORKER_PREFIX": resource.name,
        "LEPTON_JOB_SERVICE_PREFIX": resource.name,
        "LEPTON_JOB_WORKER_HOSTNAME_PREFIX": resource.name,
        "LEPTON_SUBDOMAIN": "localhost",
        "LEPTON_JOB_FAILURE_COUNT": str(notes.failures),
        "LEPTON_WORKER_ID": worker.name(resource.name),
        "LEPTON_RESOURCE_ACCELERATOR_NUM": str(resources.gpus),
        "LEPTON_RESOURCE_ACCELERATOR_TYPE": "gpu" if resources.gpus else "",
    }


# -- what the API shows


def describe(
    resource: Resource, spec: JobSpec, old: JobStatus, todo: Plan, workloads: dict[str, Observation]
) -> JobStatus:
    """The status that says what is now, from the notes and the workloads."""
    notes = todo.notes
    now = [seen for worker in current(spec, notes) if (seen := workloads.get(worker.id(resource.uid)))]
    counts = {
        "ready": sum(seen.state == "running" for seen in now),
        "active": sum(not seen.ended for seen in now),
        "succeeded": sum(seen.reason == "Completed" for seen in now),
        "failed": sum(seen.ended and seen.reason != "Completed" for seen in workloads.values()),
    }
    history = old.job_history
    if todo.attempt_over is not None:
        # The attempt that is over is the one the old notes were about.
        over = msgspec.convert(old.details, Notes).attempt
        history = [*history, _attempt(resource, over, todo.attempt_over, workloads)][-MAX_HISTORY:]
    return JobStatus(
        state=_state(resource, spec, notes, now),
        message=notes.message,
        creation_time=resource.created_at,
        completion_time=notes.ended_at,
        job_history=history,
        replicas=_replicas(resource, spec, notes, workloads),
        terminations=_terminations(resource, workloads),
        details=msgspec.to_builtins(notes),
        **counts,
    )


def _state(resource: Resource, spec: JobSpec, notes: Notes, now: list[Observation]) -> str:
    if notes.phase == "ended":
        return str(notes.verdict)
    if notes.phase == "ending":
        return {"Stopped": "Stopping", "Restarted": "Restarting"}.get(str(notes.verdict), "Terminating")
    if notes.phase == "waiting":
        if notes.not_before:
            return "PendingRetry"
        return "Awaiting" if start_at_ms(spec) > time.time() * 1000 else "Queueing"
    states = {seen.state for seen in now}
    if notes.not_before and "running" not in states:
        return "PendingRetry"
    alive = states - {"exited", "lost"}
    if alive <= {"running"} and now:
        return "Running"
    return "Queueing" if alive <= {"queued"} else "Starting"


def _attempt(resource: Resource, number: int, verdict: str, workloads: dict[str, Observation]) -> Attempt:
    mine = [seen for seen in workloads.values() if seen.labels["attempt"] == str(number)]
    times = [seen.finished_at for seen in mine if seen.finished_at]
    return Attempt(
        job_name=f"{resource.name}-a{number}",
        state={"Retry": "Failed", "Preempted": "Stopped", "Restarted": "Stopped"}.get(verdict, verdict),
        succeeded=sum(seen.reason == "Completed" for seen in mine),
        failed=sum(seen.ended and seen.reason != "Completed" for seen in mine),
        creation_time=round(min((seen.queued_at for seen in mine), default=resource.created_at / 1000) * 1000),
        completion_time=round(max(times) * 1000) if times else None,
    )


def _replicas(
    resource: Resource, spec: JobSpec, notes: Notes, workloads: dict[str, Observation]
) -> list[ReplicaStatus]:
    """Workers of this attempt first, by index; then those of before, the newest first: their logs are still there."""
    wanted = {worker.id(resource.uid): worker for worker in current(spec, notes)} if notes.phase == "running" else {}
    known = {id: _worker_of(seen) for id, seen in workloads.items()}
    everyone = sorted((wanted | known).items(), key=lambda item: (-item[1].attempt, -item[1].retry, item[1].index))
    return [_replica(resource, id, worker, workloads.get(id)) for id, worker in everyone[:MAX_REPLICAS]]


def _replica(resource: Resource, id: str, worker: Worker, seen: Observation | None) -> ReplicaStatus:
    return ReplicaStatus(
        id=worker.name(resource.name),
        workload=id,
        index=worker.index,
        state=seen.state if seen else "queued",
        ready=bool(seen and seen.state == "running"),
        reason=_REASONS[seen.state] if seen else "Queueing",
        message=seen.message if seen else "",
        ports=list(seen.ports) if seen else [],
        created_at=round(seen.queued_at * 1000) if seen else 0,
    )


def _terminations(resource: Resource, workloads: dict[str, Observation]) -> list[Termination]:
    ended = sorted((seen for seen in workloads.values() if seen.ended), key=lambda seen: seen.finished_at or 0)
    return [
        Termination(
            replica=_worker_of(seen).name(resource.name),
            started_at=round(seen.started_at or seen.queued_at),
            finished_at=round(seen.finished_at or 0),
            exit_code=seen.exit_code if seen.exit_code is not None else 0 if seen.reason == "Stopped" else 1,
            reason=seen.reason or "Error",
            message=seen.message,
        )
        for seen in ended[-MAX_TERMINATIONS:]
    ]


def _worker_of(seen: Observation) -> Worker:
    labels = seen.labels
    return Worker(int(labels["index"]), int(labels["attempt"]), int(labels["retry"]))
