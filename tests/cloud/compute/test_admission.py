"""Who starts next: by priority, then age; gangs whole; nobody over the machine's size; the fewest victims."""

from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cloud.compute.admission import PATIENCE_S, Claim, decide, total
from leptonai.cloud.compute.driver import Resources

ROOM = Resources(4, 4 << 30, 2)


def claim(id: str, cpu: float = 1, priority: int = 5, queued_at: float = 0, **values) -> Claim:
    return Claim(id, Resources(cpu, 1 << 20), priority, queued_at, **values)


def test_higher_priority_first_then_the_older():
    waiting = [claim("low", 2, 1, 0), claim("old", 2, 5, 1), claim("young", 2, 5, 2), claim("high", 2, 9, 3)]
    assert decide(waiting, [], ROOM, 4).admit == ("high", "old")


def test_a_gang_starts_whole_or_not_at_all():
    gang = [claim(f"g{n}", 2, gang="g", gang_size=3) for n in range(3)]
    assert decide(gang, [], ROOM, 0).admit == ()
    assert decide(gang, [], Resources(6, 1 << 30), 0).admit == ("g0", "g1", "g2")
    assert decide(gang[:2], [], ROOM, 0).admit == ()  # the third is not there yet


def test_a_small_one_may_pass_a_large_one_but_not_for_ever():
    waiting, running = [claim("large", 4, queued_at=0), claim("small", 1, queued_at=1)], [claim("runs", 2)]
    assert decide(waiting, running, ROOM, PATIENCE_S / 2).admit == ("small",)
    assert decide(waiting, running, ROOM, PATIENCE_S + 1).admit == ()


def test_the_least_important_youngest_make_room_and_only_as_many_as_needed():
    running = [
        claim("a", 1, 1, 0, preemptible=True),
        claim("b", 1, 1, 5, preemptible=True),
        claim("c", 2, 3, 0, preemptible=True),
    ]
    vip = claim("vip", 1, 9, 9, can_preempt=True)
    assert decide([vip], running, ROOM, 10).preempt == ("b",)
    assert decide([claim("big", 2, 9, can_preempt=True)], running, ROOM, 10).preempt == ("b", "a")
    # The two small ones alone would not do, and with the large one they are not needed.
    big = claim("big", 3, 9, can_preempt=True)
    assert set(decide([big], running, ROOM, 10).preempt) == {"c", "b"}


def test_nobody_is_stopped_in_vain_or_against_the_rules():
    running = [claim("a", 2, 1, preemptible=True), claim("b", 2, 1)]
    assert decide([claim("x", 4, 9, can_preempt=True)], running, ROOM, 0).preempt == ()  # not enough even then
    assert decide([claim("x", 2, 9)], running, ROOM, 0).preempt == ()  # may not pre-empt
    assert decide([claim("x", 2, 1, can_preempt=True)], running, ROOM, 0).preempt == ()  # not more important


def test_room_that_is_being_made_is_not_given_away():
    running = [claim("leaving", 4, 1, preemptible=True, stopping=True)]
    waiting = [claim("vip", 3, 9, can_preempt=True), claim("small", 1, 5)]
    decision = decide(waiting, running, Resources(5, 1 << 30), 0)
    assert decision.admit == () and decision.preempt == ()


CLAIMS = st.lists(
    st.tuples(
        st.sampled_from([0.25, 0.5, 1, 3]), st.integers(0, 3), st.integers(0, 200), st.sampled_from([None, "g", "h"]),
        st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2),
    ),
    max_size=12,
)  # fmt: skip


def claims(rows, prefix: str) -> list[Claim]:
    sizes = {gang: sum(row[3] == gang for row in rows) for gang in ("g", "h")}
    return [
        Claim(
            f"{prefix}{n}", Resources(cpu, 1 << 28, gpus), priority, at, gang and prefix + gang, sizes.get(gang, 1),
            preemptible, can_preempt, stopping and prefix == "r",
        )
        for n, (cpu, priority, at, gang, preemptible, can_preempt, stopping, gpus) in enumerate(rows)
    ]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(CLAIMS, CLAIMS, st.integers(0, 300))
def test_any_queue(waiting, running, now):
    waiting, running = claims(waiting, "w"), claims(running, "r")
    while not total(one.resources for one in running).fits(ROOM):
        running.pop()
    decision = decide(waiting, running, ROOM, now)
    admitted = [one for one in waiting if one.id in decision.admit]
    assert total(one.resources for one in [*admitted, *running]).fits(ROOM)
    for one in admitted:
        if one.gang:
            assert {other.id for other in waiting if other.gang == one.gang} <= set(decision.admit)
    victims = [one for one in running if one.id in decision.preempt]
    assert all(one.preemptible and not one.stopping for one in victims)
    assert len(decision.preempt) == len(victims) == len(set(decision.preempt))


def test_who_waits_for_the_room_of_its_workspace_holds_up_nobody_else():
    limits = {"a": Resources(1, 1 << 30)}
    running = [claim("a1", 1, workspace="a")]
    waiting = [claim("a2", 1, 9, 0, workspace="a"), claim("b1", 3, 1, 1, workspace="b")]
    assert decide(waiting, running, ROOM, 10 * PATIENCE_S, limits).admit == ("b1",)
    assert decide(waiting[:1], [], ROOM, 0, limits).admit == ("a2",)


@given(
    waiting=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(1, 9)), max_size=12),
    running=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), max_size=3),
    limit=st.integers(0, 6),
)
@settings(deadline=None)
def test_no_workspace_goes_beyond_its_quota(waiting, running, limit):
    limits = {"a": Resources(limit, 1 << 40), "b": Resources(2, 1 << 40)}
    claims = {f"w{n}": claim(f"w{n}", cpu, priority, n, workspace=ws) for n, (ws, cpu, priority) in enumerate(waiting)}
    busy = [claim(f"r{n}", cpu, workspace=ws) for n, (ws, cpu) in enumerate(running)]
    big = Resources(100, 1 << 40)
    admitted = [claims[id] for id in decide(list(claims.values()), busy, big, 0, limits).admit]
    for workspace, most in limits.items():
        new = total(one.resources for one in admitted if one.workspace == workspace)
        old = total(one.resources for one in busy if one.workspace == workspace)
        assert new.cpu == 0 or new.plus(old).fits(most)
    assert {one.id for one in claims.values() if one.workspace == "c"} <= {one.id for one in admitted}
