"""The rules of a rollout on a world without processes: who is started, compared, taken back, replaced, and when."""

import itertools
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cloud.compute.driver import Observation
from leptonai.cloud.control import rollout, scaling
from leptonai.cloud.control.notes import Facts, Notes, workload_id
from leptonai.cloud.gateway.counts import Stats
from leptonai.cloud.gateway.traffic import EndpointTraffic, RevisionTraffic
from leptonai.cloud.resources.endpoint import EndpointSpec

UID = "u" * 32
STEP_MS = 250


@dataclass
class World:
    """Time in steps of a quarter of a second. `ready_s`: what a replica takes from its start, per TEXT; None: it never answers."""

    replicas: tuple[int, int] = (2, 2)
    ready_s: dict[str, float | None] = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    text: str = "one"
    now: int = 1_000_000
    notes: Notes = field(default_factory=Notes)
    workloads: dict[str, Observation] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    traffic: EndpointTraffic = field(default_factory=EndpointTraffic)
    events: list[tuple[str, str]] = field(default_factory=list)
    silent_s: dict[int, float] = field(default_factory=dict)
    room: int = 100
    scales: list[int] = field(default_factory=list)

    def spec(self) -> dict:
        least, most = self.replicas
        return {
            "container": {"image": "host", "command": ["serve"]},
            "resource_requirement": {"min_replicas": least, "max_replicas": most},
            "envs": [{"name": "TEXT", "value": self.text}],
            **self.fields,
        }

    def step(self) -> None:
        raw = self.spec()
        facts = Facts(
            now=self.now,
            version=1,
            author="ann",
            workloads=self.workloads,
            probes={one.serial: self._answers(one.serial) for one in self.notes.replicas},
            traffic=self.traffic,
            drained=lambda serial, version: True,
            silent_s=self.silent_s,
        )
        todo = rollout.plan(msgspec.convert(raw, EndpointSpec), raw, self.notes, UID, facts)
        self.notes = msgspec.convert(msgspec.json.decode(msgspec.json.encode(todo.notes)), Notes)  # as it is stored
        self.events += [(reason, message) for _, reason, message in todo.events]
        for one in todo.stop:
            id = workload_id(UID, one.serial)
            self.workloads[id] = replace(self.workloads[id], state="exited", reason="Stopped")
        for one in todo.launch:
            id = workload_id(UID, one.serial)
            running = sum(seen.state == "running" for seen in self.workloads.values()) < self.room
            began = self.now / 1000 if running else None
            state = "running" if running else "queued"
            self.workloads[id] = Observation(id, "ws", "endpoint/e", state, ports=(1,), started_at=began)
            made = next(made for made in self.notes.revisions if made.number == one.revision)
            self.texts[id] = made.template["envs"][0]["value"]
        self.scales.append(self.notes.scale.replicas)
        self.now += STEP_MS

    def _answers(self, serial: int) -> bool:
        seen = self.workloads.get(workload_id(UID, serial))
        if seen is None or seen.started_at is None:
            return False
        takes_s = self.ready_s.get(self.texts[seen.id], 0.2)
        return takes_s is not None and self.now / 1000 - seen.started_at >= takes_s

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000 / STEP_MS)):
            self.step()

    def until(self, reason: str, limit_s: float) -> float:
        began = self.now
        while not any(one == reason for one, _ in self.events):
            assert (self.now - began) / 1000 <= limit_s, (self.notes, self.events)
            self.step()
        return (self.now - began) / 1000

    @property
    def ready(self) -> list[str]:
        """TEXT of each replica that takes requests."""
        return sorted(self.texts[workload_id(UID, one.serial)] for one in self.notes.replicas if one.phase == "ready")


def settled(**options) -> World:
    world = World(**options)
    world.run(15)
    assert len(world.ready) == world.replicas[0]
    return world


@pytest.mark.parametrize(
    ("stable_s", "fields", "limit_s"),
    [
        (0.2, {}, 10),
        (8.0, {}, 24),
        (0.2, {"auto_scaler": {"scale_down": {"not_ready_timeout": 60}}}, 60),
        (0.2, {"auto_scaler": {"scale_down": {"not_ready_timeout": 3}}}, 3),
        (0.2, {"health": {"liveness": {"initial_delay_seconds": 15}}}, 25),
    ],
)
def test_a_revision_that_does_not_answer_has_the_time_that_the_stable_one_lets_us_expect(stable_s, fields, limit_s):
    world = settled(ready_s={"one": stable_s, "two": None}, fields=fields)
    world.text = "two"
    took_s = world.until("RolledBack", 100)
    assert limit_s <= took_s <= limit_s + 1.5
    world.run(10)
    assert world.ready == ["one", "one"]


def test_the_first_revision_may_take_long():
    world = World(ready_s={"one": 500.0})
    world.run(510)
    assert world.ready == ["one", "one"] and not any(reason == "RolledBack" for reason, _ in world.events)


def test_time_in_the_queue_does_not_count():
    world = settled(replicas=(1, 1), ready_s={"two": None}, room=1, fields={})
    world.text = "two"
    world.run(2.5)  # less than it takes until the old one makes room
    assert [seen.state for seen in world.workloads.values()] == ["running", "queued"]
    assert world.ready == ["one"]


def test_a_canary_is_beside_all_the_old_ones_until_it_is_judged():
    world = settled(replicas=(3, 3))
    world.text = "two"
    world.until("RevisionCreated", 1)
    while "two" not in world.ready:
        world.step()
    seen = [(world.now, len(world.ready))]
    for _ in range(11):
        world.step()
        seen.append((world.now, len(world.ready)))
    assert {count for _, count in seen} == {4}
    world.run(10)
    assert world.ready == ["two"] * 3


@given(least=st.integers(1, 6), start_s=st.floats(0.1, 5), room=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_an_update_never_has_fewer_ready_than_wanted_where_there_is_room(least, start_s, room):
    world = settled(replicas=(least, least), ready_s={"two": start_s}, room=least + 2 + room)
    world.text = "two"
    for _ in range(400):
        world.step()
        assert len(world.ready) >= least
        if world.ready == ["two"] * least:
            break
    assert world.ready == ["two"] * least


@given(
    waits_s=st.lists(st.floats(0, 25), min_size=1, max_size=6),
    counts=st.lists(st.integers(1, 5), min_size=6, max_size=6),
    start_s=st.floats(0.1, 4),
)
@settings(max_examples=150, deadline=None)
def test_whenever_updates_come_the_last_one_arrives_and_enough_are_ready_meanwhile(waits_s, counts, start_s):
    world = settled(replicas=(counts[-1],) * 2)
    for number, (wait_s, count) in enumerate(zip(waits_s, counts, strict=False)):
        least = min(world.replicas[0], count)
        world.text, world.replicas = f"v{number}", (count, count)
        world.ready_s[world.text] = start_s
        for _ in range(round(wait_s * 1000 / STEP_MS)):
            world.step()
            assert len(world.ready) >= min(least, 1)
    for _ in range(400):
        world.step()
        assert world.ready
    assert world.ready == [world.text] * world.replicas[0]
    assert sum(seen.state == "running" for seen in world.workloads.values()) == world.replicas[0]


def test_one_that_answers_its_probe_no_more_is_replaced_and_said():
    world = settled()
    victim = world.notes.replicas[0].serial
    world.silent_s = {victim: 19.0}
    world.step()
    assert len(world.ready) == 2
    world.silent_s = {victim: 21.0}
    world.run(3)
    world.silent_s = {}
    assert len(world.ready) == 2 and victim not in [one.serial for one in world.notes.replicas]
    assert any(reason == "ReplicaUnhealthy" for reason, _ in world.events)


def test_one_that_is_busy_with_requests_that_take_long_is_not_dead():
    world = settled()
    stats = Stats()
    for _ in range(100):
        stats.add(200, 25.0, 0, 0, True)
    found = RevisionTraffic(stats.requests, 0, stats.latency_s, histogram=list(stats.histogram))
    world.traffic = EndpointTraffic(revisions={"1": found})
    world.silent_s = {world.notes.replicas[0].serial: 60.0}
    world.run(2)
    assert not any(reason == "ReplicaUnhealthy" for reason, _ in world.events)


def test_a_new_revision_whose_replicas_fall_silent_is_taken_back():
    world = settled()
    world.text = "two"
    world.run(2)
    for _ in range(400):
        new = [one.serial for one in world.notes.replicas if one.revision == 2 and one.phase == "ready"]
        world.silent_s = dict.fromkeys(new, 21.0)
        world.step()
        if any(reason == "RolledBack" for reason, _ in world.events):
            break
    world.silent_s = {}
    world.run(10)
    assert world.ready == ["one", "one"] and world.notes.target == 1


# -- scaling

TARGET = {"auto_scaler": {"target_throughput": {"qpm": 60}}}


def saw_tooth(world: World, period_s: float, high: int, low: int, seconds: float) -> None:
    for step in range(round(seconds * 1000 / STEP_MS)):
        up = (step * STEP_MS / 1000) % period_s < period_s / 2
        minute = high if up else low
        world.traffic = EndpointTraffic(minute=minute, last_request=world.now / 1000 if minute else 0.0)
        world.step()


def changes(scales: list[int]) -> int:
    return sum(a != b for a, b in itertools.pairwise(scales))


@given(period_s=st.floats(2, 50), high=st.integers(100, 600), low=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_saw_tooth_does_not_flap(period_s, high, low):
    world = settled(replicas=(1, 10), fields=TARGET)
    world.scales.clear()
    saw_tooth(world, period_s, high, low, 300)
    assert changes(world.scales) <= 2, (
        "up once for the height of the teeth; a valley shorter than a minute changes nothing"
    )
    assert max(world.scales) == min(10, -(-high // 60))


def test_down_goes_one_step_in_half_a_minute_and_not_before_a_minute():
    world = settled(replicas=(1, 6), fields=TARGET)
    saw_tooth(world, 10, 360, 360, 10)
    assert world.notes.scale.replicas == 6
    world.scales.clear()
    saw_tooth(world, 10, 0, 0, 59)
    assert set(world.scales) == {6}
    saw_tooth(world, 10, 0, 0, 300)
    assert world.scales[-1] == 1 and changes(world.scales) == 5


def test_from_zero_and_back_to_zero():
    scaler = {"auto_scaler": {"scale_down": {"no_traffic_timeout": 60}}}
    world = settled(replicas=(1, 1), fields=scaler)
    world.run(70)
    assert world.notes.scale.asleep and world.ready == []
    world.traffic = EndpointTraffic(held=3, last_request=world.now / 1000)
    world.run(2)
    assert world.ready == ["one"] and not world.notes.scale.asleep
    world.traffic = EndpointTraffic(last_request=world.now / 1000)
    world.run(59)
    assert world.ready == ["one"]
    world.run(5)
    assert world.ready == [] and changes(world.scales) <= 4


def test_up_is_at_once_and_within_the_bounds():
    world = settled(replicas=(1, 4), fields=TARGET)
    world.traffic = EndpointTraffic(minute=10_000, last_request=world.now / 1000)
    world.step()
    assert world.notes.scale.replicas == 4
    world.traffic = EndpointTraffic(in_flight=3 * scaling.CONCURRENCY, last_request=world.now / 1000)
    world.run(3)
    assert len(world.ready) == 4
