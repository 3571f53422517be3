"""The verdict on simulated traffic: a slow or failing revision is found, an equal one is not, however the machine behaves."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cloud.control.verdict import SLICES, SLOW_SLICES, Speed, by_chance, is_decided, observe, worse
from leptonai.cloud.gateway.counts import Stats
from leptonai.cloud.gateway.traffic import RevisionTraffic


def traffic(stats: Stats, silent_s=0.0) -> RevisionTraffic:
    return RevisionTraffic(
        stats.requests, stats.errors, stats.latency_s, histogram=list(stats.histogram), silent_s=silent_s
    )


class World:
    """One canary beside `replicas` stable ones, half a second at a time. A machine that stands still stops all of them."""

    def __init__(
        self, seed: int, *, base_s=0.03, factor=1.0, errors=0.0, stalls=0.0, spread=0.4, replicas=3, rate=15.0
    ):
        self.chance = random.Random(seed)
        self.base_s, self.factor, self.errors, self.stalls, self.spread = base_s, factor, errors, stalls, spread
        self.replicas, self.rate = replicas, rate
        self.new, self.stable, self.speed = Stats(), Stats(), Speed()

    def answer(self, stats: Stats, factor: float, errors: float, stall_s: float) -> None:
        # Only some of the requests are open while the machine stands still; which ones is chance.
        waits_s = self.chance.uniform(0, stall_s) if self.chance.random() < 0.5 else 0.0
        took_s = self.base_s * factor * self.chance.lognormvariate(0, self.spread) + waits_s
        stats.add(500 if self.chance.random() < errors else 200, took_s, 0, 0, True)

    def half_second(self) -> str | None:
        stall_s = self.chance.uniform(0.2, 3.0) if self.chance.random() < self.stalls else 0.0
        for _ in range(round(self.rate / 2)):
            self.answer(self.new, self.factor, self.errors, stall_s)
            for _ in range(self.replicas):
                self.answer(self.stable, 1.0, 0.0, stall_s)
        new, stable = traffic(self.new), traffic(self.stable)
        observe(self.speed, new, stable)
        return worse(self.speed, new, stable, stable)

    def run(self, half_seconds=60) -> tuple[str | None, float]:
        """The reason to go and the seconds until it was found."""
        for step in range(1, half_seconds + 1):
            if why := self.half_second():
                return why, step / 2
        return None, half_seconds / 2


@given(
    seed=st.integers(0, 10**9),
    base_s=st.sampled_from([0.002, 0.01, 0.011, 0.03, 0.2, 1.0]),
    stalls=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    spread=st.sampled_from([0.1, 0.4, 0.8]),
    rate=st.sampled_from([2.0, 15.0, 60.0]),
)
@settings(max_examples=120, deadline=None)
def test_an_equal_revision_stays_also_on_a_machine_that_stands_still_again_and_again(
    seed, base_s, stalls, spread, rate
):
    assert World(seed, base_s=base_s, stalls=stalls, spread=spread, rate=rate).run() == (None, 30.0)


@given(
    seed=st.integers(0, 10**9),
    base_s=st.floats(0.004, 1.0),
    stalls=st.sampled_from([0.0, 0.1]),
    spread=st.sampled_from([0.1, 0.4]),
)
@settings(max_examples=120, deadline=None)
def test_one_three_times_as_slow_is_found_within_twenty_seconds(seed, base_s, stalls, spread):
    why, seconds = World(seed, base_s=base_s, factor=3.0, stalls=stalls, spread=spread).run()
    assert why and "on average" in why and seconds <= 20


@given(seed=st.integers(0, 10**9), stalls=st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_one_of_five_requests_failing_is_found_within_fifteen_seconds(seed, stalls):
    why, seconds = World(seed, errors=0.2, stalls=stalls).run()
    assert why and "failed" in why and seconds <= 15


@given(seed=st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_errors_that_both_have_are_not_blamed_on_the_new_one(seed):
    world = World(seed, errors=0.3)
    for _ in range(60):
        for stats in (world.new, world.stable, world.stable, world.stable):
            for _ in range(7):
                world.answer(stats, 1.0, 0.3, 0.0)
        assert worse(world.speed, traffic(world.new), traffic(world.stable), traffic(world.stable)) is None


def test_a_few_milliseconds_are_no_reason_whatever_the_factor():
    assert World(1, base_s=0.001, factor=3.0).run()[0] is None


def test_a_slow_start_is_forgiven():
    world = World(2, factor=10.0)
    for _ in range(SLOW_SLICES):
        assert world.half_second() is None
    world.factor = 1.0
    assert world.run()[0] is None


def test_nothing_is_judged_before_there_are_enough_slices():
    world = World(3, factor=10.0)
    for step in range(SLICES):
        assert not is_decided(world.speed), step
        world.half_second()
    world.half_second()
    assert is_decided(world.speed)


@pytest.mark.parametrize(
    ("silent_s", "usual_s", "bad"), [(6.0, 0.03, True), (4.0, 0.03, False), (20.0, 8.0, False), (31.0, 8.0, True)]
)
def test_silence_is_measured_by_what_was_usual(silent_s, usual_s, bad):
    usual = Stats()
    for _ in range(100):
        usual.add(200, usual_s, 0, 0, True)
    new = traffic(Stats(), silent_s)
    assert bool(worse(Speed(), new, traffic(usual), traffic(usual))) is bad


def test_a_worker_that_began_anew_begins_a_new_slice():
    world = World(4, factor=3.0)
    for _ in range(4):
        world.half_second()
    world.new, world.stable = Stats(), Stats()  # its counts are gone
    for _ in range(2):
        assert world.half_second() is None
    assert world.run()[0]


@pytest.mark.parametrize(
    ("table", "expected"),
    [((3, 15, 0, 45), 455 / 34220), ((1, 1, 1, 1), 1.0), ((2, 2, 0, 2), 1 / 6), ((0, 5, 3, 5), 1.0)],
)
def test_fishers_exact_test(table, expected):
    assert by_chance(*table) == pytest.approx(expected)


def test_one_that_only_fails_is_found_where_the_stable_one_was_never_called():
    new = RevisionTraffic(requests=6, errors=6, histogram=[6])
    assert "6 of 6" in worse(Speed(), new, RevisionTraffic(), RevisionTraffic())


def test_counts_that_were_forgotten_are_no_counts():
    world = World(6)
    world.half_second()
    gone = RevisionTraffic().minus(traffic(world.stable))
    assert (gone.requests, sum(gone.histogram)) == (0, 0)
    observe(world.speed, traffic(world.new), RevisionTraffic())
    assert world.run()[0] is None
