"""Endpoints with everything real: store, driver, controller, route table, gateway worker, replicas, and load while they change."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from tests.cloud.gateway.conftest import TOKEN

from leptonai.cloud.control.loop import Loop, make_controllers

from .conftest import wait_until
from .endpoints import Endpoints


@pytest.fixture
def cloud(home, url):
    cloud = Endpoints(home, url)
    with Loop(cloud.context, make_controllers(cloud.context, ("endpoint",))):
        yield cloud
    cloud.close()


def test_an_endpoint_comes_up_is_called_changed_and_goes(cloud):
    cloud.create("echo", replicas=(2, 2), env={"TEXT": "one"})
    cloud.ready("echo", 2)
    assert cloud.call("echo").json()["text"] == "one"
    assert cloud.call("echo", token="wrong").status_code == 401
    assert {cloud.call("echo").json()["replica"] for _ in range(10)} == {"echo-1", "echo-2"}

    cloud.update("echo", replicas=(1, 1), env={"TEXT": "one"})
    wait_until(lambda: len(cloud.get("echo").status["replicas"]) == 1)
    assert cloud.get("echo").status["details"]["target"] == 1, "another number of replicas is no new revision"

    cloud.update("echo", replicas=(0, 0), env={"TEXT": "one"})
    wait_until(lambda: cloud.get("echo").state == "Stopped")
    assert cloud.call("echo").status_code == 503

    uid = cloud.get("echo").uid
    cloud.delete("echo")
    wait_until(lambda: _purged(cloud, uid))
    wait_until(lambda: cloud.call("echo").status_code == 404)
    assert not cloud.context.driver.observe()


def _purged(cloud, uid) -> bool:
    with cloud.context.store.reading() as tx:
        return tx.by_uid(uid) is None


@pytest.mark.slow  # bench/rollout.py has the same with `lep up`; its small form is in test_updates.py
def test_rolling_updates_under_load_fail_no_request(cloud):
    cloud.create("echo", replicas=(3, 3), env={"TEXT": "v0"})
    cloud.ready("echo", 3)
    updates, rate = 2, 100
    with cloud.load("echo", rate) as load:
        time.sleep(2)
        for number in range(1, updates + 1):
            cloud.update("echo", replicas=(3, 3), env={"TEXT": f"v{number}"})
            wait_until(lambda: cloud.get("echo").state == "Updating")
            wait_until(lambda number=number: cloud.get("echo").status["details"].get("complete_since"), 60)
        time.sleep(1)
    print(f"{load.answered} answered, {load.statuses}, {len(load.errors)} errors")
    assert load.errors == [] and set(load.statuses) == {200}
    assert load.answered >= 0.8 * rate * load.seconds, "a run with less than 80 % of its load says nothing"
    assert cloud.call("echo").json()["text"] == f"v{updates}", cloud.events("echo")


BAD = {
    "crash": {"MODE": "crash"},
    "hang": {"MODE": "hang"},
    "wrong port": {"MODE": "wrong-port"},
    "errors": {"MODE": "errors"},
    "slow": {"MODE": "slow"},
    "silent": {"MODE": "silent"},
    "out of memory": {"MODE": "memory"},
}


SLOW = ("hang", "wrong port", "silent")
"""Ten seconds are what a replica has to answer in (test_rollout.py has the rule); no connection is silent for long sooner."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in BAD])
def test_a_bad_revision_returns_by_itself(cloud, kind):
    good = {"DELAY_S": "0.03"}
    cloud.create("echo", replicas=(3, 3), env=good)
    cloud.ready("echo", 3)
    with cloud.load("echo", 60, connections=64) as load:
        time.sleep(1)
        cloud.update("echo", replicas=(3, 3), env=good | BAD[kind])
        began = time.monotonic()
        cloud.happens("echo", "RolledBack")
        took_s = time.monotonic() - began
        wait_until(
            lambda: cloud.get("echo").status["ready_replicas"] == 3 and len(cloud.get("echo").status["replicas"]) == 3
        )
        time.sleep(0.5)
    failed = {status: count for status, count in load.statuses.items() if status != 200}
    print(f"{kind}: returned after {took_s:.1f} s; {load.answered} answered, {failed}, {len(load.errors)} cut")
    stable = sum(count for body, count in load.bodies.items() if b'"revision": "1"' in body)
    assert stable > 0.5 * load.answered
    assert took_s <= 30
    assert load.answered >= 0.8 * 60 * load.seconds, "a run with less than 80 % of its load says nothing"
    assert all(b'"revision": "1"' not in body for body, status in load.failures), "the stable revision saw an error"
    if kind == "out of memory":
        terminations = cloud.get("echo").status["terminations"]
        assert any(one["reason"] == "OutOfMemory" for one in terminations), terminations
    if kind in ("crash", "hang", "wrong port", "slow"):
        assert not failed and not load.errors
    assert cloud.get("echo").state == "Ready" and "taken back" in cloud.get("echo").status["message"]
    assert {cloud.call("echo").json()["revision"] for _ in range(6)} == {"1"}


def test_a_killed_replica_is_replaced_and_only_its_open_requests_fail(cloud):
    cloud.create("echo", replicas=(2, 2))
    cloud.ready("echo", 2)
    with cloud.load("echo", 60) as load:
        time.sleep(0.5)
        victim, pid = next(iter(cloud.pids("echo").items()))
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: victim not in cloud.pids("echo") and len(cloud.pids("echo")) == 2)
        back_s = time.monotonic() - began
        time.sleep(0.5)
    failed = sum(count for status, count in load.statuses.items() if status != 200)
    print(f"back after {back_s:.2f} s, {failed} of {load.answered} failed")
    assert back_s < 5 and not load.errors
    assert set(load.statuses) <= {200, 502} and failed <= 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_open_streams_of_a_replica_that_is_ended_by_somebody(cloud, number):
    """SIGTERM: each stream ends whole, as the replica finishes it. SIGKILL: those that had begun are cut, and no other request
    fails. The replica is back within five seconds."""
    cloud.create("echo", replicas=(2, 2))
    cloud.ready("echo", 2)
    found: list[bytes | None] = []

    def read():
        headers = {"authorization": f"Bearer {TOKEN}"}
        try:
            with httpx.stream("GET", f"{cloud.gateway.url}/ws/echo/stream?n=20", headers=headers, timeout=20) as answer:
                found.append(answer.read())
        except httpx.HTTPError:
            found.append(None)

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(cloud.gateway.traffic().endpoint("ws/echo").replicas.values()) == 20)
    victim, pid = next(iter(cloud.pids("echo").items()))
    with cloud.load("echo", 40, method="GET") as load:
        os.kill(pid, number)
        began = time.monotonic()
        wait_until(lambda: victim not in cloud.pids("echo") and len(cloud.pids("echo")) == 2)
        back_s = time.monotonic() - began
        for thread in threads:
            thread.join(30)
    whole = sum(one == b"part\n" * 20 for one in found)
    print(
        f"{number.name}: {whole} of 20 streams whole, {found.count(None)} cut, {load.statuses}, back after {back_s:.1f} s"
    )
    assert set(load.statuses) == {200} and not load.errors, "GET is sent again: nothing of these may fail"
    if number == signal.SIGTERM:
        assert whole == 20 and back_s < 5 + 2.5, "it ends when its streams do, two seconds later"
    else:
        assert whole == found.count(None) == 10 and back_s < 5


@pytest.mark.slow  # twenty seconds of silence are what it takes
def test_a_replica_that_stops_answering_is_replaced(cloud):
    cloud.create("echo", replicas=(2, 2))
    cloud.ready("echo", 2)
    victim, pid = next(iter(cloud.pids("echo").items()))
    os.kill(pid, signal.SIGSTOP)
    cloud.happens("echo", "ReplicaUnhealthy", 40)
    wait_until(lambda: victim not in cloud.pids("echo") and len(cloud.pids("echo")) == 2)


def test_streams_are_drained_when_a_replica_goes(cloud):
    cloud.create("echo", replicas=(1, 1), env={"TEXT": "one"})
    cloud.ready("echo", 1)
    found = []

    def read():
        with httpx.stream(
            "GET", f"{cloud.gateway.url}/ws/echo/stream?n=50", headers={"authorization": f"Bearer {TOKEN}"}, timeout=20
        ) as answer:
            found.append(answer.read())

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    wait_until(lambda: cloud.gateway.traffic().endpoint("ws/echo").in_flight == 10)
    cloud.update("echo", replicas=(1, 1), env={"TEXT": "two"})
    wait_until(lambda: cloud.call("echo").json()["text"] == "two" and len(cloud.get("echo").status["replicas"]) >= 1)
    for thread in threads:
        thread.join(30)
    assert found == [b"part\n" * 50] * 10
    wait_until(lambda: [one["revision"] for one in cloud.get("echo").status["replicas"]] == [2])


def test_requests_wake_an_endpoint_that_sleeps_and_none_fails(cloud, monkeypatch):
    monkeypatch.setattr("leptonai.cloud.control.scaling.idle_timeout_s", lambda spec, least: 1.5)
    cloud.create("echo", replicas=(1, 1), env={"START_S": "0.5"})
    cloud.ready("echo", 1)
    wait_until(
        lambda: (
            cloud.get("echo").status["details"]["scale"].get("asleep") and not cloud.get("echo").status.get("replicas")
        )
    )
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(cloud.call("echo").status_code)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 20
    assert cloud.get("echo").status["ready_replicas"] == 1


def test_traffic_scales_up_within_the_bounds(cloud):
    scaler = {"target_throughput": {"qpm": 60}}
    cloud.create("echo", replicas=(1, 3), auto_scaler=scaler)
    cloud.ready("echo", 1)
    with cloud.load("echo", 20) as load:
        wait_until(lambda: cloud.get("echo").status["ready_replicas"] == 3, 30)
    assert set(load.statuses) == {200} and not load.errors


def test_a_full_machine_makes_room_for_the_new_revision_without_a_failed_request(cloud):
    shape = {"resource_shape": "cpu.large", "min_replicas": 1, "max_replicas": 1}
    cloud.create("echo", env={"TEXT": "one"}, resource_requirement={**shape, "resource_shape": _largest(cloud)})
    cloud.ready("echo", 1)
    with cloud.load("echo", 20) as load:
        cloud.update("echo", env={"TEXT": "two"}, resource_requirement={**shape, "resource_shape": _largest(cloud)})
        wait_until(lambda: any(b'"two"' in body for body in load.bodies), 30)
    assert set(load.statuses) == {200} and not load.errors


def _largest(cloud) -> str:
    shapes = cloud.context.shapes
    return max(shapes, key=lambda name: shapes[name].cpu)


@pytest.mark.slow
def test_sigkills_of_the_plane_during_rollouts_touch_no_request(home):
    cloud = Endpoints(home)
    plane = None
    kills, rate = 8, 60
    try:
        cloud.create("echo", replicas=(2, 2), env={"TEXT": "v0"})
        plane = _start_plane(home)
        cloud.ready("echo", 2)
        with cloud.load("echo", rate) as load:
            for number in range(1, kills + 1):
                cloud.update("echo", replicas=(2, 2), env={"TEXT": f"v{number}"})
                time.sleep(0.37 * (number % 5) + 0.05)
                plane.kill()
                plane.wait()
                plane = _start_plane(home)
            cloud.complete("echo", f"v{kills}")
        print(f"{load.answered} answered, {load.statuses}")
        assert load.errors == [] and set(load.statuses) == {200}
        assert load.answered >= 0.8 * rate * load.seconds
        assert cloud.call("echo").json()["text"] == f"v{kills}"
        running = [seen for seen in cloud.context.driver.observe().values() if not seen.ended]
        assert len(running) == 2, "nothing is left over of the revisions between"
    finally:
        if plane is not None:
            plane.kill()
            plane.wait()
        cloud.close()


def _start_plane(home) -> subprocess.Popen:
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.control.plane", str(home.root)], cwd=root, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"active\n"
    return child
