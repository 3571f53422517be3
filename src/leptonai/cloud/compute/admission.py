"""Who starts next. A pure function of who waits, who runs and what there is: strict by priority, then by age, gangs whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .driver import NOTHING, Resources

PATIENCE_S = 60.0
"""A smaller workload may pass a large one that waits for room, but not for longer than this: nobody starves."""


@dataclass(frozen=True)
class Claim:
    """What admission has to know about a workload that waits or runs."""

    id: str
    resources: Resources
    priority: int
    queued_at: float
    workspace: str = ""
    gang: str | None = None
    gang_size: int = 1
    preemptible: bool = False
    can_preempt: bool = False
    stopping: bool = False
    """Runs, but has been told to stop: its room will be free soon."""


@dataclass(frozen=True)
class Decision:
    admit: tuple[str, ...] = ()
    preempt: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """A gang, or one workload by itself."""

    members: tuple[Claim, ...]

    @property
    def resources(self) -> Resources:
        return total(member.resources for member in self.members)

    @property
    def priority(self) -> int:
        return max(member.priority for member in self.members)

    @property
    def queued_at(self) -> float:
        return min(member.queued_at for member in self.members)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(member.id for member in self.members)


def decide(
    waiting: Sequence[Claim],
    running: Sequence[Claim],
    capacity: Resources,
    now: float,
    limits: Mapping[str, Resources] | None = None,
) -> Decision:
    """Whom to start now and whom to stop for those who wait. `running` includes what was admitted and is about to start.

    `limits`: what a workspace may claim in all. Who waits for its own workspace's room holds up nobody else.
    """
    left = _left_of(limits or {}, running)
    free = capacity.minus(total(claim.resources for claim in running))
    leaving = total(claim.resources for claim in running if claim.stopping)
    admit: list[str] = []
    for group in _in_order(waiting):
        workspace = group.members[0].workspace
        if workspace in left and not group.resources.fits(left[workspace]):
            continue
        if group.resources.fits(free):
            if workspace in left:
                left[workspace] = left[workspace].minus(group.resources)
            admit += group.ids
            free = free.minus(group.resources)
            continue
        if all(member.can_preempt for member in group.members):
            if group.resources.fits(free.plus(leaving)):
                break  # the room is being made for it; nobody else may take it
            victims = _victims(group, running, free.plus(leaving))
            if victims:
                return Decision(tuple(admit), tuple(id for victim in victims for id in victim.ids))
        if now - group.queued_at > PATIENCE_S:
            break
    return Decision(tuple(admit))


def _left_of(limits: Mapping[str, Resources], running: Sequence[Claim]) -> dict[str, Resources]:
    left = dict(limits)
    for claim in running:
        if claim.workspace in left:
            left[claim.workspace] = left[claim.workspace].minus(claim.resources)
    return left


def total(resources: Iterable[Resources]) -> Resources:
    result = NOTHING
    for one in resources:
        result = result.plus(one)
    return result


def _in_order(waiting: Sequence[Claim]) -> list[_Group]:
    """Groups that are complete, the first to start first."""
    groups = [group for group in _groups(waiting) if len(group.members) >= group.members[0].gang_size]
    return sorted(groups, key=lambda group: (-group.priority, group.queued_at, group.ids))


def _groups(claims: Iterable[Claim]) -> list[_Group]:
    members: dict[tuple[bool, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        members[claim.gang is not None, claim.gang or claim.id].append(claim)
    return [_Group(tuple(sorted(group, key=lambda claim: claim.id))) for group in members.values()]


def _victims(group: _Group, running: Sequence[Claim], free: Resources) -> list[_Group]:
    """The fewest of the least important, youngest first, whose end makes room for `group`; none if that is not enough."""
    candidates = [
        other
        for other in _groups(claim for claim in running if not claim.stopping)
        if other.priority < group.priority and all(member.preemptible for member in other.members)
    ]
    chosen: list[_Group] = []
    for candidate in sorted(candidates, key=lambda other: (other.priority, -other.queued_at)):
        chosen.append(candidate)
        free = free.plus(candidate.resources)
        if group.resources.fits(free):
            break
    else:
        return []
    for candidate in chosen[::-1]:  # one may be superfluous once a larger one is in
        without = free.minus(candidate.resources)
        if group.resources.fits(without):
            chosen.remove(candidate)
            free = without
    return chosen
