"""The loop: one that acts, back-off, waking; what a controller does wrong is said and does not stop the others."""

import threading
import time

import pytest

from leptonai.base.errors import Conflict, Unavailable
from leptonai.cloud.control.loop import Loop, make_controllers
from leptonai.cloud.store.model import Resource

from .conftest import Plane, make_context, wait_until


class Recording:
    """A controller that notes when it was called, and does what the test says."""

    def __init__(self, act=lambda resource: None):
        self.act, self.calls, self.inside, self.most_inside = act, [], set(), 0

    def reconcile(self, resource: Resource) -> float | None:
        assert resource.uid not in self.inside, "one resource with two threads"
        self.inside.add(resource.uid)
        self.most_inside = max(self.most_inside, len(self.inside))
        try:
            self.calls.append((time.monotonic(), resource.name, resource.version))
            return self.act(resource)
        finally:
            self.inside.discard(resource.uid)


@pytest.fixture
def context(home, url):
    context = make_context(home, url)
    yield context
    context.store.close()


def test_a_change_is_seen_at_once_and_the_wish_for_a_later_call_is_kept(context):
    controller = Recording(lambda resource: 0.2 if resource.version == 1 else None)
    plane = Plane(context)
    with Loop(context, {"job": controller}):
        plane.job("j", "true")
        wait_until(lambda: len(controller.calls) == 2)
        assert 0.15 < controller.calls[1][0] - controller.calls[0][0] < 2
        plane.change("j", stopped=True)
        wait_until(lambda: controller.calls[-1][2] == 2)


def test_errors_back_off_are_said_once_and_hurt_nobody_else(context):
    def act(resource):
        if resource.name == "bad":
            raise Unavailable("the thing does not answer")
        if resource.name == "worse":
            raise ZeroDivisionError("secret details")

    controller = Recording(act)
    plane = Plane(context)
    with Loop(context, {"job": controller}):
        for name in ("bad", "worse", "good"):
            plane.job(name, "true")
        wait_until(lambda: sum(name == "bad" for _, name, _ in controller.calls) >= 3)
    times = [at for at, name, _ in controller.calls if name == "bad"]
    assert times[2] - times[1] > 1.5 * (times[1] - times[0]) > 0.5
    assert any(name == "good" for _, name, _ in controller.calls)
    with context.store.reading() as tx:
        messages = {name: [e.message for e in tx.events(tx.get("job", "default", name))] for name in ("bad", "worse")}
    assert messages["bad"] == ["the thing does not answer"]
    assert messages["worse"] == ["the plane met an error of its own (ZeroDivisionError)"]


def test_a_conflict_is_not_an_error(context):
    first = threading.Event()

    def act(resource):
        if not first.is_set():
            first.set()
            raise Conflict("it has moved")

    controller = Recording(act)
    plane = Plane(context)
    with Loop(context, {"job": controller}):
        plane.job("j", "true")
        wait_until(lambda: len(controller.calls) == 2)
    assert controller.calls[1][0] - controller.calls[0][0] < 0.4
    assert plane.events("j") == []


def test_resources_in_parallel_but_never_one_with_two_threads(context):
    controller = Recording(lambda resource: time.sleep(0.05))
    plane = Plane(context)
    with Loop(context, {"job": controller}, workers=4):
        for n in range(8):
            plane.job(f"j{n}", "true")
        for _ in range(10):
            plane.change("j0", ttl_seconds_after_finished=_)
        wait_until(lambda: {name for _, name, _ in controller.calls} == {f"j{n}" for n in range(8)})
        wait_until(lambda: any(name == "j0" and version == 11 for _, name, version in controller.calls))
    assert 2 <= controller.most_inside <= 4


def test_one_process_per_home_acts_and_the_next_takes_over(context, home):
    other = make_context(home)
    first, second = Recording(), Recording()
    with Loop(context, {"job": first}) as one:
        wait_until(one.active.is_set)
        loop = Loop(other, {"job": second})
        loop.start()
        plane = Plane(context)
        plane.job("j", "true")
        wait_until(lambda: first.calls)
        time.sleep(0.3)
        assert not loop.active.is_set() and not second.calls
    wait_until(lambda: second.calls)
    loop.stop()
    other.store.close()


def test_a_plane_that_lost_its_lease_cannot_write(context):
    """Fencing: it was stopped, its lease went to a copy of the home, and it wakes up."""
    plane = Plane(context)
    with Loop(context, make_controllers(context, ("job",))) as loop:
        plane.job("j", "true")
        plane.wait("j", "Completed")
        node, lease = loop.node, context.lease
    with context.store.connection() as connection:
        connection.exec_driver_sql("update leases set expires_at = 0")
    assert context.store.lease(f"node/{node}", "the copy", 60) is not None
    context.lease = lease
    with pytest.raises(Conflict, match="taken by another process"), context.transaction() as tx:
        tx.set_status(tx.get("job", "default", "j"), {"state": "Failed"})
    assert plane.state("j") == "Completed"


def test_a_stopped_loop_leaves_workloads_running(context, home):
    plane = Plane(context)
    with Loop(context, make_controllers(context, ("job",))):
        plane.job("j", "sleep 1; echo done")
        plane.wait("j", "Running")
    assert plane.state("j") == "Running"
    with Loop(context, make_controllers(context, ("job",))):
        plane.wait("j", "Completed")
    assert plane.log("j") == "done\n"
