"""What an endpoint should do next: a pure function of its spec, its notes, its workloads, probes and traffic. Owns its states.

    replica    starting ──(probe)──► ready ──► draining ──(no open request)──► stopping ──► gone
    revision   canary (one replica) ──(no worse than the stable one)──► all replicas ──(ten good seconds)──► stable
                  └── crashes, does not start, errs, is slow or silent ──► the stable one comes back, by itself

Notes are written before an act, and ids of workloads follow from them, so whoever comes back after a crash does the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..gateway.traffic import RevisionTraffic
from ..resources.endpoint import EndpointSpec
from . import scaling, verdict
from .notes import (
    Facts,
    Notes,
    Plan,
    ReplicaNote,
    RevisionNote,
    digest_of,
    is_rejected,
    is_rolling,
    revision,
    template_of,
    workload_id,
)

KEPT_REVISIONS = 3
START_S = 600.0
"""For a replica to answer its probe where nothing is known: `not_ready_timeout` is not set, and no revision was ever ready."""
LEAST_START_S, START_FACTOR = 10.0, 3.0
"""For one of a new revision, from the start of its process: this, or so many times what the stable revision took."""
CANARY_S, CANARY_MOST_S, QUIET_REQUESTS = 3.0, 8.0, 20
"""A new revision is one replica beside all the old ones for this long; longer, if there is traffic that is not judged yet."""
DEAD_S = 20.0
"""One that took requests and has not answered its probe for this long is replaced; later, if its revision is known to be slow."""
LIVENESS_LOOK_S = 2.0
PROBATION_S = 10.0
DRAIN_S = 300.0
REJECTED_DRAIN_S = 5.0
"""A revision that was taken back may be one that never answers: its requests are not waited for."""
SETTLE_S = 0.3
QUEUED_S = 3.0
"""If a new replica finds no room beside the old ones for this long, an old one makes room."""
QUICK_S = 60.0
MAX_BACKOFF_S = 60.0
STEP_S = 0.1


def plan(spec: EndpointSpec, raw: Mapping[str, Any], notes: Notes, uid: str, facts: Facts) -> Plan:
    """`raw`: the spec as it is kept. The notes that come back are to be written before anything in the plan is done."""
    todo = Plan(msgspec.convert(msgspec.to_builtins(notes), Notes))
    _choose(raw, todo, facts)
    _reap(uid, todo, facts)
    _promote(spec, uid, todo, facts)
    _find_dead(todo, facts)
    _judge(spec, uid, todo, facts)
    least, most = spec.replicas
    desired = scaling.desired(spec, least, most, todo.notes.scale, facts.traffic, facts.now)
    _replace(spec, desired, uid, todo, facts)
    _retire(uid, todo, facts)
    _launch_and_stop(uid, todo, facts)
    todo.wait_s = _wait(spec, desired, todo, facts)
    return todo


def _choose(raw: Mapping[str, Any], todo: Plan, facts: Facts) -> None:
    """Set the target: the revision of this spec, made now if it is new; the stable one if this spec came back before."""
    notes = todo.notes
    template = template_of(raw)
    digest = digest_of(template)
    if digest in notes.rejected:
        return
    if notes.target and revision(notes, notes.target).digest == digest:
        return
    if notes.stable and revision(notes, notes.stable).digest == digest:
        number = notes.stable
    else:
        number = max((one.number for one in notes.revisions), default=0) + 1
        notes.revisions.append(RevisionNote(number, digest, template, facts.author))
    if not notes.stable or number != notes.stable:
        todo.tell("RevisionCreated", f"revision {number}")
    if notes.complete_since and number != notes.stable:
        notes.stable = notes.target  # it serves all requests, so it is what the next one is measured by
    notes.target, notes.crashes, notes.not_before, notes.message = number, 0, 0, ""
    notes.seen_since, notes.complete_since, notes.baseline, notes.speed = 0, 0, None, verdict.Speed()
    used = {notes.stable, notes.target, *(one.revision for one in notes.replicas)}
    notes.revisions = [one for one in notes.revisions if one.number in used or one.number > number - KEPT_REVISIONS]


def _reap(uid: str, todo: Plan, facts: Facts) -> None:
    """Replicas whose workloads have ended are gone; those that were not asked to are crashes."""
    notes = todo.notes
    for one in list(notes.replicas):
        seen = facts.workloads.get(workload_id(uid, one.serial))
        if seen is None and (one.phase == "starting" and not one.ports):
            continue  # not launched yet
        if seen is not None and not seen.ended:
            continue
        notes.replicas.remove(one)
        if one.phase in ("draining", "stopping"):
            continue
        ended = (
            f"ended ({seen.reason}{'' if seen.exit_code is None else f', exit code {seen.exit_code}'})"
            if seen
            else "is lost"
        )
        words = f"replica {one.serial} of revision {one.revision} {ended}" + (
            f": {seen.message}" if seen and seen.message else ""
        )
        todo.warn("ReplicaFailed", words)
        made = revision(notes, one.revision)
        made.crashes += 2 if seen is not None and seen.reason == "OutOfMemory" else 1
        quick = facts.now - one.created < QUICK_S * 1000
        notes.crashes = notes.crashes + 1 if quick else 1
        delay_s = 0 if notes.crashes == 1 else min(MAX_BACKOFF_S, 0.5 * 2 ** (notes.crashes - 2))
        notes.not_before = facts.now + round(delay_s * 1000)
        notes.message = words


def _promote(spec: EndpointSpec, uid: str, todo: Plan, facts: Facts) -> None:
    for one in todo.notes.replicas:
        seen = facts.workloads.get(workload_id(uid, one.serial))
        if one.phase != "starting" or seen is None or seen.state != "running":
            continue
        one.ports = list(seen.ports)
        if spec.is_pod or facts.probes.get(one.serial):
            one.phase, one.since = "ready", facts.now
            made = revision(todo.notes, one.revision)
            made.ready_s = max(made.ready_s, facts.now / 1000 - (seen.started_at or facts.now / 1000))
            todo.tell("ReplicaReady", f"replica {one.serial} of revision {one.revision}")
            if one.revision == todo.notes.target and not todo.notes.seen_since:
                todo.notes.seen_since = facts.now
                stable = facts.traffic.revisions.get(str(todo.notes.stable))
                todo.notes.baseline = stable or RevisionTraffic()


def start_limit_s(spec: EndpointSpec, notes: Notes) -> float:
    """How long a replica may take to answer its probe: what the owner says, or what the stable revision lets us expect."""
    down = spec.auto_scaler and spec.auto_scaler.scale_down
    if down and down.not_ready_timeout:
        return down.not_ready_timeout
    stable = revision(notes, notes.stable).ready_s if notes.stable else 0.0
    if not stable:
        return START_S
    liveness = spec.health and spec.health.liveness
    delay_s = (liveness and liveness.initial_delay_seconds) or 0
    return min(START_S, max(LEAST_START_S, START_FACTOR * stable) + delay_s)


def _starts_too_long(one: ReplicaNote, limit_s: float, uid: str, facts: Facts) -> bool:
    """Time in the queue is not its fault, and has the limit of those of whom nothing is known."""
    seen = facts.workloads.get(workload_id(uid, one.serial))
    if seen is None or seen.started_at is None:
        return facts.now - one.since > max(START_S, limit_s) * 1000
    return facts.now / 1000 - max(seen.started_at, one.since / 1000) > limit_s


def _find_dead(todo: Plan, facts: Facts) -> None:
    """Those that took requests and answer their probe no more make room for others; what they have open is not waited for."""
    notes = todo.notes
    for one in notes.replicas:
        silent_s = facts.silent_s.get(one.serial, 0.0)
        if one.phase != "ready" or silent_s <= DEAD_S:
            continue
        # One that works at a request and can do nothing beside it is slow, not dead.
        traffic = facts.traffic.revisions.get(str(one.revision), RevisionTraffic())
        if silent_s <= 3 * (traffic.quantile(0.999) or 0.0):
            continue
        one.dead = True
        _drain(one, todo, facts)
        made = revision(notes, one.revision)
        made.crashes += 1
        notes.message = (
            f"replica {one.serial} of revision {one.revision} has not answered its probe for {silent_s:.0f} s"
        )
        todo.warn("ReplicaUnhealthy", notes.message)


def _judge(spec: EndpointSpec, uid: str, todo: Plan, facts: Facts) -> None:
    """Return to the stable revision if the new one is worse; call it stable once it has been good for a while."""
    notes = todo.notes
    new = revision(notes, notes.target)
    if not is_rolling(notes):
        _first(todo, facts)
        return
    why = None
    starting = [one for one in notes.replicas if one.revision == new.number and one.phase == "starting"]
    limit_s = start_limit_s(spec, notes)
    if new.crashes >= 2:
        why = notes.message or "its replicas crash"
    elif any(_starts_too_long(one, limit_s, uid, facts) for one in starting):
        why = f"a replica did not answer on its port within {limit_s:.0f} s"
    elif notes.seen_since:
        mine = facts.traffic.revisions.get(str(new.number), RevisionTraffic())
        stable = facts.traffic.revisions.get(str(notes.stable), RevisionTraffic())
        verdict.observe(notes.speed, mine, stable)
        why = verdict.worse(notes.speed, mine, stable.minus(notes.baseline or RevisionTraffic()), stable)
    if why:
        _return(todo, new, why)
    elif notes.complete_since and facts.now - notes.complete_since >= PROBATION_S * 1000:
        notes.stable, notes.message, notes.speed = new.number, "", verdict.Speed()
        todo.tell("RolledOut", f"revision {new.number} serves all requests")


def _first(todo: Plan, facts: Facts) -> None:
    """The first revision is the stable one as soon as it answers: there is nothing better."""
    notes = todo.notes
    if not notes.stable and any(one.revision == notes.target and one.phase == "ready" for one in notes.replicas):
        notes.stable, notes.message = notes.target, ""


def _return(todo: Plan, new: RevisionNote, why: str) -> None:
    notes = todo.notes
    notes.rejected = [*notes.rejected, new.digest][-20:]
    notes.target = notes.stable
    notes.message = f"revision {new.number} was taken back: {why}"
    notes.crashes, notes.not_before, notes.seen_since, notes.complete_since = 0, 0, 0, 0
    notes.speed = verdict.Speed()
    todo.warn("RolledBack", notes.message)


def _replace(spec: EndpointSpec, desired: int, uid: str, todo: Plan, facts: Facts) -> None:
    """Surge, then drain: launch what is missing, let go what is too much, never below the wanted number of ready ones."""
    notes = todo.notes
    alive = [one for one in notes.replicas if one.alive]
    mine = [one for one in alive if one.revision == notes.target]
    old = [one for one in alive if one.revision != notes.target]
    if desired == 0:
        for one in alive:
            _drain(one, todo, facts)
        return
    if spec.is_pod and old:  # a machine of one's own is replaced, not doubled
        for one in old:
            _drain(one, todo, facts)
        return
    surge = max(1, desired // 4)
    proven = not is_rolling(notes) or _proven(notes, facts)
    missing = min((desired if proven else 1) - len(mine), desired + surge - len(alive))
    if missing > 0 and facts.now >= notes.not_before and not (spec.is_pod and len(mine) < len(notes.replicas)):
        for _ in range(missing):
            notes.serial += 1
            one = ReplicaNote(notes.serial, notes.target, facts.now, since=facts.now)
            notes.replicas.append(one)
            mine.append(one)
    _let_go(desired, mine, old, proven, uid, todo, facts)
    complete = not old and sum(one.phase == "ready" for one in mine) >= desired
    notes.complete_since = (notes.complete_since or facts.now) if complete else 0


def _proven(notes: Notes, facts: Facts) -> bool:
    if not notes.seen_since:
        return False
    since_s = (facts.now - notes.seen_since) / 1000
    answered = facts.traffic.revisions.get(str(notes.target), RevisionTraffic()).requests
    judged = verdict.is_decided(notes.speed) or answered < QUIET_REQUESTS
    return since_s >= CANARY_MOST_S or (since_s >= CANARY_S and judged)


def _let_go(
    desired: int, mine: list[ReplicaNote], old: list[ReplicaNote], proven: bool, uid: str, todo: Plan, facts: Facts
) -> None:
    notes = todo.notes
    ready = [one for one in mine if one.phase == "ready"]
    ready_old = [one for one in old if one.phase == "ready"]
    # One that was taken back gets no more requests as soon as there is a single other one.
    rejected = [one for one in ready_old if is_rejected(notes, one)]
    for one in rejected if ready or len(rejected) < len(ready_old) else []:
        _drain(one, todo, facts)
        ready_old.remove(one)
    for one in old:
        if one.phase == "starting":
            _drain(one, todo, facts)
    too_many = len(ready) + len(ready_old) - desired
    # A canary is beside all of the stable revision: it is compared with them, and nothing is missing if it goes. Those of a
    # revision between, that never became the stable one, make room for it.
    between = [one for one in ready_old if one.revision != notes.stable]
    stable = [one for one in ready_old if one.revision == notes.stable]
    goes = [*between, *stable][: max(0, too_many)]
    if not proven:
        goes = [*between[: max(0, too_many)], *stable[: max(0, len(stable) - desired)]]
    for one in goes:
        _drain(one, todo, facts)
    if too_many <= 0 and ready_old and any(_finds_no_room(one, uid, facts) for one in mine):
        _drain(ready_old[0], todo, facts)
    if not old:
        surplus = len(mine) - desired
        for one in sorted(mine, key=lambda one: (one.phase == "ready", -one.serial))[: max(0, surplus)]:
            _drain(one, todo, facts)


def _finds_no_room(one: ReplicaNote, uid: str, facts: Facts) -> bool:
    seen = facts.workloads.get(workload_id(uid, one.serial))
    return (
        one.phase == "starting"
        and seen is not None
        and seen.state == "queued"
        and facts.now - one.since > QUEUED_S * 1000
    )


def _drain(one: ReplicaNote, todo: Plan, facts: Facts) -> None:
    """No new requests; one that never had any is stopped at once."""
    one.phase = "draining" if one.phase == "ready" else "stopping"
    one.since, one.drain_version = facts.now, facts.version + 1


def _retire(uid: str, todo: Plan, facts: Facts) -> None:
    for one in todo.notes.replicas:
        if one.phase == "draining":
            waited_s = (facts.now - one.since) / 1000
            limit_s = REJECTED_DRAIN_S if one.dead or is_rejected(todo.notes, one) else DRAIN_S
            if waited_s > limit_s or (waited_s >= SETTLE_S and facts.drained(one.serial, one.drain_version)):
                one.phase, one.since = "stopping", facts.now


def _launch_and_stop(uid: str, todo: Plan, facts: Facts) -> None:
    for one in list(todo.notes.replicas):
        seen = facts.workloads.get(workload_id(uid, one.serial))
        if one.phase == "starting" and seen is None:
            todo.launch.append(one)
        elif one.phase == "stopping":
            if seen is None:
                todo.notes.replicas.remove(one)
            else:
                todo.stop.append(one)


def _wait(spec: EndpointSpec, desired: int, todo: Plan, facts: Facts) -> float | None:
    notes = todo.notes
    moving = any(one.phase != "ready" for one in notes.replicas) or len(notes.replicas) != desired
    if moving or is_rolling(notes) or notes.scale.asleep:
        return STEP_S
    again_s = scaling.look_again_s(spec, notes.scale, facts.traffic, facts.now)
    if spec.is_pod or not notes.replicas:
        return again_s
    return LIVENESS_LOOK_S if again_s is None else min(again_s, LIVENESS_LOOK_S)
