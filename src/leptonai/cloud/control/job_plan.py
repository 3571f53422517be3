"""What a job should do next: a pure function of its spec, its notes and what its workloads do. Owns the states of a job.

    waiting ──► running ──► ending ──► ended          one attempt: all workers start together, all are gone before the next one
       ▲                      │
       └──────────────────────┘  retry, pre-empted, started again

The notes are written before anything is launched or stopped, and ids of workloads follow from them: whoever comes back after
a crash launches what is missing under the same ids, which does nothing for those that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ...base.structs import prepare
from ..compute.driver import Observation
from ..resources.job import JobSpec

BACKOFF_S, MAX_BACKOFF_S = 1.0, 300.0
GRACE_S = 30.0
ENDING_CHECK_S, CHECK_S = 1.0, 60.0

Phase = Literal["waiting", "running", "ending", "ended"]
Verdict = Literal["Completed", "Failed", "Stopped", "Retry", "Preempted", "Restarted"]


class Notes(msgspec.Struct, omit_defaults=True):
    """`status.details` of a job. Times in milliseconds since 1970."""

    phase: Phase = "waiting"
    attempt: int = 1
    failures: int = 0
    """Attempts that failed: LEPTON_JOB_FAILURE_COUNT."""
    retries: dict[str, int] = {}
    """How often each worker was started again in this attempt, by its index."""
    not_before: dict[str, int] = {}
    """Back-off: of a worker by its index, of the whole job by `job`."""
    verdict: Verdict | None = None
    message: str = ""
    ended_at: int | None = None
    restarted: int | None = None


prepare(Notes)


@dataclass(frozen=True)
class Worker:
    index: int
    attempt: int
    retry: int

    def id(self, uid: str) -> str:
        return f"{uid[:16]}-a{self.attempt}-r{self.retry}-w{self.index}"

    def name(self, job: str) -> str:
        """The replica's name: short for the usual case."""
        again = f"-a{self.attempt}r{self.retry}" if self.attempt > 1 or self.retry else ""
        return f"{job}-{self.index}{again}"


@dataclass
class Plan:
    notes: Notes
    launch: list[Worker] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    archive: bool = False
    """Its time after the end is over."""
    wait_s: float | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list)
    """(type, reason, message), written with the notes."""
    attempt_over: Verdict | None = None
    """An attempt has ended with this: it goes into the history."""


def plan(spec: JobSpec, notes: Notes, uid: str, workloads: Mapping[str, Observation], now: int) -> Plan:
    """`workloads`: all of this job, of every attempt, by id. `now`: milliseconds since 1970."""
    notes = msgspec.convert(msgspec.to_builtins(notes), Notes)  # a copy: the old notes are what is in the store
    step = {"waiting": _waiting, "running": _running, "ending": _ending, "ended": _ended}[notes.phase]
    return step(spec, notes, uid, workloads, now)


def worker_count(spec: JobSpec) -> int:
    return spec.completions or 1


def is_gang(spec: JobSpec) -> bool:
    return worker_count(spec) > 1 and (spec.parallelism or worker_count(spec)) >= worker_count(spec)


def current(spec: JobSpec, notes: Notes) -> list[Worker]:
    return [Worker(i, notes.attempt, notes.retries.get(str(i), 0)) for i in range(worker_count(spec))]


def start_at_ms(spec: JobSpec) -> int:
    at = (spec.time_schedule and spec.time_schedule.start_at) or 0
    return at if at > 10**11 else at * 1000  # seconds until the year 5138, else milliseconds


# -- the phases


def _waiting(spec: JobSpec, notes: Notes, uid: str, workloads: Mapping[str, Observation], now: int) -> Plan:
    if spec.stopped:
        return _end(Plan(notes), "Stopped", "it was stopped before it started", now)
    notes.restarted = spec.restarted
    due = max(start_at_ms(spec), notes.not_before.get("job", 0))
    if now < due:
        return Plan(notes, wait_s=(due - now) / 1000)
    notes.phase, notes.not_before = "running", {}
    return Plan(notes, wait_s=0, events=[("Normal", "Queued", f"attempt {notes.attempt} waits for room")])


def _running(spec: JobSpec, notes: Notes, uid: str, workloads: Mapping[str, Observation], now: int) -> Plan:
    result = Plan(notes, wait_s=CHECK_S)
    if spec.stopped:
        return _begin_end(result, "Stopped", "it was stopped", now)
    if spec.restarted != notes.restarted:
        return _begin_end(result, "Restarted", "it was started again", now)
    succeeded = alive = 0
    missing: list[Worker] = []
    for worker in current(spec, notes):
        seen = workloads.get(worker.id(uid))
        if seen is None:
            missing.append(worker)
        elif not seen.ended:
            alive += 1
        elif seen.reason == "Completed":
            succeeded += 1
        else:
            again = _worker_failed(spec, result, worker, seen, now)
            if again is None:
                return result
            missing.append(again)
    if succeeded == worker_count(spec):
        return _end(result, "Completed", "", now)
    room = worker_count(spec) if is_gang(spec) else max(1, spec.parallelism or 1) - alive
    for worker in missing:
        wait_ms = notes.not_before.get(str(worker.index), 0) - now
        if wait_ms > 0:
            result.wait_s = min(result.wait_s or CHECK_S, wait_ms / 1000)
        elif room > 0:
            result.launch.append(worker)
            room -= 1
    return result


def _worker_failed(spec: JobSpec, result: Plan, worker: Worker, seen: Observation, now: int) -> Worker | None:
    """The same worker, to be started again; or None, and the attempt is coming to its end."""
    notes = result.notes
    words = f"worker {worker.index}: {seen.message or seen.reason}"
    if seen.reason == "Preempted":
        _begin_end(result, "Preempted", words, now)
        return None
    result.events.append(("Warning", seen.reason or "Error", words))
    if seen.reason == "TimeLimit":
        _begin_end(result, "Failed", words, now)
        return None
    if worker.retry < (spec.max_failure_retry or 0):
        notes.retries[str(worker.index)] = worker.retry + 1
        notes.not_before[str(worker.index)] = now + backoff_ms(worker.retry)
        return Worker(worker.index, worker.attempt, worker.retry + 1)
    again = notes.failures < (spec.max_job_failure_retry or 0)
    _begin_end(result, "Retry" if again else "Failed", words, now)
    return None


def _begin_end(result: Plan, verdict: Verdict, message: str, now: int) -> Plan:
    """The verdict stands; what still runs has to go first. One kept note: a crash changes nothing about it."""
    result.notes.phase, result.notes.verdict, result.notes.message = "ending", verdict, message
    result.launch, result.wait_s = [], 0
    return result


def _ending(spec: JobSpec, notes: Notes, uid: str, workloads: Mapping[str, Observation], now: int) -> Plan:
    result = Plan(notes, wait_s=ENDING_CHECK_S)
    if spec.stopped and notes.verdict in ("Retry", "Preempted", "Restarted"):
        notes.verdict, notes.message = "Stopped", "it was stopped"
    alive = [id for id, seen in workloads.items() if not seen.ended]
    if alive:
        result.stop = alive
        return result
    verdict = notes.verdict
    if verdict in ("Completed", "Failed", "Stopped"):
        return _end(result, verdict, notes.message, now)
    result.attempt_over = verdict
    if verdict == "Retry":
        notes.failures += 1
        notes.not_before = {"job": now + backoff_ms(notes.failures - 1)}
        result.events.append(("Warning", "Retrying", f"attempt {notes.attempt} failed ({notes.message})"))
    else:
        notes.not_before = {}
        result.events.append(("Normal", str(verdict), f"attempt {notes.attempt} ended ({notes.message})"))
    notes.attempt += 1
    notes.phase, notes.verdict, notes.retries = "waiting", None, {}
    result.wait_s = 0
    return result


def _end(result: Plan, verdict: Verdict, message: str, now: int) -> Plan:
    notes = result.notes
    notes.phase, notes.verdict, notes.message, notes.ended_at = "ended", verdict, message, now
    notes.not_before = {}
    result.launch, result.wait_s, result.attempt_over = [], 0, verdict
    result.events.append(("Warning" if verdict == "Failed" else "Normal", verdict, message or "all workers are done"))
    return result


def _ended(spec: JobSpec, notes: Notes, uid: str, workloads: Mapping[str, Observation], now: int) -> Plan:
    result = Plan(notes, stop=[id for id, seen in workloads.items() if not seen.ended])
    restarted = spec.restarted != notes.restarted
    if not spec.stopped and (notes.verdict == "Stopped" or restarted):
        notes.attempt += 1
        notes.phase, notes.verdict, notes.message, notes.retries = "waiting", None, "", {}
        notes.ended_at, notes.failures, result.wait_s = None, 0, 0
        result.events.append(("Normal", "Started", "it was started again"))
        return result
    if spec.ttl_seconds_after_finished is not None and notes.verdict != "Stopped" and notes.ended_at is not None:
        left_ms = notes.ended_at + spec.ttl_seconds_after_finished * 1000 - now
        result.archive = left_ms <= 0
        result.wait_s = max(0, left_ms) / 1000
    return result


def backoff_ms(failures: int) -> int:
    """1, 2, 4, … seconds, at most five minutes."""
    return round(1000 * min(MAX_BACKOFF_S, BACKOFF_S * 2**failures))
