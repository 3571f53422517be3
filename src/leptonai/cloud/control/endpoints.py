"""Endpoints and pods: makes replicas follow `rollout`. Owns the order of acts: first the status is written, then workloads are touched."""

from __future__ import annotations

import threading
import time

import msgspec

from ...base.errors import Conflict, InvalidInput, LeptonError, NotFound, Refused, Unavailable
from ..compute.driver import Observation, Workload
from ..gateway.traffic import Traffic
from ..resources.endpoint import EndpointSpec, EndpointStatus
from ..resources.fields import QueueConfig, ReplicaStatus, Termination
from ..store import Resource
from ..store.transaction import now_ms
from .context import UID, Context
from .notes import Facts, Notes, Plan, ReplicaNote, is_rejected, is_rolling, replica_name, revision, workload_id
from .probes import Probes
from .rollout import plan

GRACE_S, REJECTED_GRACE_S = 30.0, 2.0
KEPT_LOGS = 10
"""Ended workloads whose logs stay, per endpoint."""
MAX_TERMINATIONS = 100
TRAFFIC_S = 0.05


class EndpointController:
    def __init__(self, context: Context):
        self.context = context
        self.probes = Probes()
        self._lock = threading.Lock()
        self._traffic, self._traffic_at = Traffic([]), 0.0

    def reconcile(self, resource: Resource) -> float | None:
        workloads = self._workloads(resource)
        if resource.deleted_at is not None:
            return self._delete(resource, workloads)
        spec = msgspec.convert(resource.spec, EndpointSpec)
        status = msgspec.convert(resource.status, EndpointStatus)
        notes = msgspec.convert(status.details, Notes)
        todo = plan(spec, resource.spec, notes, resource.uid, self._facts(resource, notes, workloads))
        resource = self._write(resource, spec, todo, workloads)
        for one in todo.stop:
            grace_s = REJECTED_GRACE_S if one.dead or is_rejected(todo.notes, one) else GRACE_S
            self.context.driver.stop(workload_id(resource.uid, one.serial), grace_s)
        self._launch(resource, spec, todo, workloads)
        self._forget(resource, todo.notes, workloads)
        return todo.wait_s

    # -- what is

    def _workloads(self, resource: Resource) -> dict[str, Observation]:
        seen = self.context.driver.observe(f"{resource.workspace}/{resource.kind}/{resource.name}")
        return {id: one for id, one in seen.items() if one.labels.get(UID) == resource.uid}

    def _facts(self, resource: Resource, notes: Notes, workloads: dict[str, Observation]) -> Facts:
        traffic, key = self.traffic(), f"{resource.workspace}/{resource.name}"
        probes, silent_s = {}, {}
        for one in notes.replicas:
            seen = workloads.get(id := workload_id(resource.uid, one.serial))
            if seen is None or seen.state != "running" or not seen.ports:
                continue
            if one.phase == "starting":
                probes[one.serial] = self.probes.answers(id, seen.ports[0])
            elif one.phase == "ready" and not resource.spec.get("is_pod"):
                silent_s[one.serial] = self.probes.silent_s(id, seen.ports[0])
        return Facts(
            now=now_ms(),
            version=resource.version,
            author=resource.modified_by,
            workloads=workloads,
            probes=probes,
            silent_s=silent_s,
            traffic=traffic.endpoint(key),
            drained=lambda serial, version: traffic.drained(key, replica_name(resource.name, serial), version),
        )

    def traffic(self) -> Traffic:
        """The workers' reports, read at most twenty times a second for all endpoints together."""
        with self._lock:
            if time.monotonic() - self._traffic_at > TRAFFIC_S:
                self._traffic = Traffic.read(self.context.home.root / "cloud" / "traffic")
                self._traffic_at = time.monotonic()
            return self._traffic

    # -- acts

    def _write(self, resource: Resource, spec: EndpointSpec, todo: Plan, workloads: dict[str, Observation]) -> Resource:
        status = describe(resource, spec, todo.notes, workloads)
        value = msgspec.to_builtins(status) | {"state": status.state}  # the column by which endpoints are found
        if value == resource.status and not todo.events:
            return resource
        with self.context.transaction() as tx:
            for type, reason, message in todo.events:
                tx.event(resource, type, reason, message)
            return tx.set_status(resource, value)

    def _launch(self, resource: Resource, spec: EndpointSpec, todo: Plan, workloads: dict[str, Observation]) -> None:
        for one in todo.launch:
            try:
                self.context.driver.launch(self._workload(resource, todo.notes, one))
            except (InvalidInput, NotFound, Refused, Unavailable) as error:
                self._cannot_start(resource, spec, todo.notes, one, error, workloads)
                return

    def _cannot_start(
        self,
        resource: Resource,
        spec: EndpointSpec,
        notes: Notes,
        one: ReplicaNote,
        error: LeptonError,
        workloads: dict,
    ) -> None:
        """What is wanted cannot be had on this machine: a new revision comes back at once, a first one is tried seldom."""
        notes.replicas = [other for other in notes.replicas if other.serial != one.serial]
        revision(notes, one.revision).crashes += 2
        notes.crashes = max(3, notes.crashes + 1)
        notes.not_before = now_ms() + 30_000
        notes.message = str(error)
        self._write(resource, spec, Plan(notes, events=[("Warning", "ConfigError", str(error))]), workloads)

    def _workload(self, resource: Resource, notes: Notes, one: ReplicaNote) -> Workload:
        made = revision(notes, one.revision)
        then = msgspec.structs.replace(resource, spec=made.template, modified_by=made.author)
        spec = msgspec.convert(made.template, EndpointSpec)
        container = spec.container
        if container is None or (not container.command and container.image in (None, "", "host")):
            raise InvalidInput(
                f"the endpoint {resource.name!r} has nothing to run",
                fix="Give --container-image, or --container-command.",
            )
        resources = self.context.resources(spec.resource_requirement and spec.resource_requirement.resource_shape)
        queue = spec.queue_config or QueueConfig()
        declared = tuple(port.container_port for port in container.ports or [])
        name = replica_name(resource.name, one.serial)
        own = {
            "LEPTON_WORKSPACE_ID": resource.workspace,
            "LEPTON_DEPLOYMENT_NAME": resource.name,
            "LEPTON_REPLICA_ID": name,
            "LEPTON_REVISION": str(one.revision),
            "LEPTON_RESOURCE_ACCELERATOR_NUM": str(resources.gpus),
            "LEPTON_RESOURCE_ACCELERATOR_TYPE": "gpu" if resources.gpus else "",
        }
        return Workload(
            id=workload_id(resource.uid, one.serial),
            workspace=resource.workspace,
            owner=f"{resource.kind}/{resource.name}",
            command=tuple(container.command or ()),
            image=container.image,
            env=self.context.environment(then) | own,
            resources=resources,
            ports=max(1, len(declared)),
            container_ports=declared,
            mounts=self.context.mounts(then, spec.mounts),
            grace_s=GRACE_S,
            priority=queue.priority,
            preemptible=bool(queue.can_be_preempted),
            can_preempt=bool(queue.can_preempt),
            labels={UID: resource.uid, "serial": str(one.serial), "revision": str(one.revision)},
        )

    def _forget(self, resource: Resource, notes: Notes, workloads: dict[str, Observation]) -> None:
        """Logs of the last few stay; the rest is removed."""
        mine = {workload_id(resource.uid, one.serial) for one in notes.replicas}
        ended = [seen for id, seen in workloads.items() if seen.ended and id not in mine]
        for seen in sorted(ended, key=lambda seen: seen.finished_at or 0)[:-KEPT_LOGS]:
            self.probes.forget(seen.id)
            self.context.driver.forget(seen.id)
        # What runs without a note was launched by somebody who lost its lease before: it is nobody's.
        for id, seen in workloads.items():
            if not seen.ended and id not in mine:
                self.context.driver.stop(id, GRACE_S)

    def _delete(self, resource: Resource, workloads: dict[str, Observation]) -> float | None:
        """The route went with the deletion; let open requests end, then remove everything."""
        alive = [id for id, seen in workloads.items() if not seen.ended]
        waited_s = (now_ms() - (resource.deleted_at or 0)) / 1000
        if alive and waited_s < GRACE_S and self._in_use(resource, waited_s):
            return 0.2
        for id in alive:
            self.context.driver.stop(id, GRACE_S)
        if alive:
            return 0.5
        for id in workloads:
            self.probes.forget(id)
            try:
                self.context.driver.forget(id)
            except Conflict:
                return 0.2
        with self.context.transaction() as tx:
            tx.purge(resource)
        return None

    def _in_use(self, resource: Resource, waited_s: float) -> bool:
        return waited_s < 1.0 or self.traffic().endpoint(f"{resource.workspace}/{resource.name}").in_flight > 0


# -- what the API shows


def describe(resource: Resource, spec: EndpointSpec, notes: Notes, workloads: dict[str, Observation]) -> EndpointStatus:
    """The status that says what is now, from the notes and the workloads."""
    ready = sum(one.phase == "ready" for one in notes.replicas)
    return EndpointStatus(
        state=_state(spec, notes, ready),
        message=notes.message or ("it sleeps until the next request" if notes.scale.asleep else ""),
        ready_replicas=ready,
        replicas=[_replica(resource, one, workloads) for one in notes.replicas],
        terminations=_terminations(resource, workloads),
        desired_replicas=notes.scale.replicas,
        details=msgspec.to_builtins(notes),
    )


def _state(spec: EndpointSpec, notes: Notes, ready: int) -> str:
    desired = notes.scale.replicas
    if desired == 0:
        if notes.scale.asleep:
            return "Ready"
        return "Stopping" if notes.replicas else "Stopped"
    if is_rolling(notes):
        return "Updating"
    if ready >= desired:
        return "Ready"
    if notes.crashes >= 3 and not ready:
        return "Not Ready"
    return "Scaling" if ready else "Starting"


_REASONS = {"queued": "Queueing", "starting": "InProgress", "running": "InProgress"}


def _replica(resource: Resource, one: ReplicaNote, workloads: dict[str, Observation]) -> ReplicaStatus:
    id = workload_id(resource.uid, one.serial)
    seen = workloads.get(id)
    reason = (
        "Ready"
        if one.phase == "ready"
        else "Deleting"
        if not one.alive
        else _REASONS.get(seen.state if seen else "queued", "Deleted")
    )
    return ReplicaStatus(
        id=replica_name(resource.name, one.serial),
        workload=id,
        index=one.serial,
        state=one.phase,
        ready=one.phase == "ready",
        reason=reason,
        message=seen.message if seen else "",
        revision=one.revision,
        address=f"127.0.0.1:{one.ports[0]}" if one.ports else None,
        ports=one.ports,
        created_at=one.created,
    )


def _terminations(resource: Resource, workloads: dict[str, Observation]) -> list[Termination]:
    ended = sorted((seen for seen in workloads.values() if seen.ended), key=lambda seen: seen.finished_at or 0)
    return [
        Termination(
            replica=replica_name(resource.name, int(seen.labels["serial"])),
            started_at=round(seen.started_at or seen.queued_at),
            finished_at=round(seen.finished_at or 0),
            exit_code=seen.exit_code if seen.exit_code is not None else 0 if seen.reason == "Stopped" else 1,
            reason=seen.reason or "Error",
            message=seen.message,
        )
        for seen in ended[-MAX_TERMINATIONS:]
    ]
