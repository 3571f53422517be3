"""The plan of a job against any course of events: it ends, by its rules, and no workload is asked for twice."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cloud.compute.driver import Observation
from leptonai.cloud.control.job_plan import MAX_BACKOFF_S, Notes, backoff_ms, plan
from leptonai.cloud.resources.job import JobSpec

UID = "0123456789abcdef0123"
OUTCOMES = ("Completed", "Error", "OutOfMemory", "Lost", "Preempted", "TimeLimit")


class World:
    """A driver that does as it is told at once, except that workloads end when the test says so."""

    def __init__(self, spec: JobSpec):
        self.spec, self.notes, self.now = spec, Notes(), 1_000_000
        self.workloads: dict[str, Observation] = {}
        self.launched: list[str] = []
        self.history: list[str] = []
        self.ended_events: list[str] = []

    def step(self, *, crash: bool = False) -> float | None:
        """One reconciliation. `crash`: the plane dies after the status is written, before it acts."""
        todo = plan(self.spec, self.notes, UID, self.workloads, self.now)
        self.notes = msgspec.convert(msgspec.to_builtins(todo.notes), Notes)
        if todo.attempt_over:
            self.history.append(todo.attempt_over)
        self.ended_events += [reason for _, reason, _ in todo.events if reason in ("Completed", "Failed", "Stopped")]
        if crash:
            return 0
        for id in todo.stop:
            self.workloads[id] = observation(id, "exited", "Stopped")
        for worker in todo.launch:
            id = worker.id(UID)
            assert id not in self.workloads
            self.launched.append(id)
            self.workloads[id] = observation(id, "running")
        return todo.wait_s

    @property
    def alive(self) -> list[str]:
        return [id for id, seen in self.workloads.items() if not seen.ended]


def observation(id: str, state: str, reason: str | None = None) -> Observation:
    return Observation(id, "default", "job/j", state, reason=reason)  # type: ignore[arg-type]


def test_success():
    world = World(JobSpec(completions=2, parallelism=2))
    world.step(), world.step()
    assert len(world.alive) == 2
    for id in world.alive:
        world.workloads[id] = observation(id, "exited", "Completed")
        world.step()
    assert (world.notes.phase, world.notes.verdict, world.history) == ("ended", "Completed", ["Completed"])


@pytest.mark.parametrize("outcome", ["Error", "Lost", "OutOfMemory", "Stopped"])
def test_failures_count_for_the_worker_first_then_for_the_job(outcome):
    world = World(JobSpec(max_failure_retry=1, max_job_failure_retry=1))
    while world.notes.phase != "ended":
        world.step()
        world.now += 10_000
        for id in world.alive:
            world.workloads[id] = observation(id, "exited", outcome)
    assert [id[16:] for id in world.launched] == ["-a1-r0-w0", "-a1-r1-w0", "-a2-r0-w0", "-a2-r1-w0"]
    assert world.history == ["Retry", "Failed"]


def test_preemption_and_the_time_limit_do_not_use_up_retries():
    world = World(JobSpec())
    world.step(), world.step()
    world.workloads[world.alive[0]] = observation(world.alive[0], "exited", "Preempted")
    for _ in range(5):
        world.step()
    assert world.notes.attempt == 2 and world.notes.failures == 0 and len(world.alive) == 1
    world.workloads[world.alive[0]] = observation(world.alive[0], "exited", "TimeLimit")
    world.spec = JobSpec(max_failure_retry=9, max_job_failure_retry=9)
    for _ in range(5):
        world.step()
    assert world.notes.verdict == "Failed"


def test_back_off_doubles_to_a_bound():
    assert [backoff_ms(n) for n in range(4)] == [1000, 2000, 4000, 8000]
    assert backoff_ms(100) == MAX_BACKOFF_S * 1000


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 5), st.sampled_from(OUTCOMES)),
        st.tuples(st.just("stop")),
        st.tuples(st.just("start")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("time")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 2), STEPS)
def test_any_course_of_events(completions, parallelism, worker_retries, job_retries, steps):
    spec = JobSpec(
        completions=completions,
        parallelism=parallelism,
        max_failure_retry=worker_retries,
        max_job_failure_retry=job_retries,
        ttl_seconds_after_finished=None,
    )
    world = World(spec)
    for what, *values in steps:
        if what == "step":
            world.step(crash=values[0])
        elif what == "end" and world.alive:
            id = world.alive[values[0] % len(world.alive)]
            world.workloads[id] = observation(id, "exited", values[1])
        elif what == "time":
            world.now += 400_000
        elif what in ("stop", "start"):
            world.spec = msgspec.structs.replace(world.spec, stopped=what == "stop")
        elif what == "restart":
            world.spec = msgspec.structs.replace(world.spec, restarted=(world.spec.restarted or 0) + 1)
        attempts = {id.split("-")[1] for id in world.alive}
        assert len(attempts) <= 1  # never two attempts at once
        if parallelism < completions:
            assert len(world.alive) <= parallelism
    for _ in range(200):  # from wherever it is: with workers that succeed it comes to its end
        world.step()
        world.now += 400_000
        for id in world.alive:
            world.workloads[id] = observation(id, "exited", "Completed")
        if world.notes.phase == "ended" and (world.spec.stopped or world.notes.verdict != "Stopped"):
            break
    else:
        raise AssertionError(f"it does not end: {world.notes}")
    assert not world.alive
    assert len(world.launched) == len(set(world.launched))
    ends = [verdict for verdict in world.history if verdict in ("Completed", "Failed", "Stopped")]
    assert ends == world.ended_events and ends[-1] == world.notes.verdict
