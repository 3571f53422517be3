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
from tests.cloud.gateway.conftest import TOKEN, Cloud

from leptonai.cloud.control.loop import Loop, make_controllers
from leptonai.cloud.control.routes import Routes
from leptonai.cloud.gateway.table import hash_token

from .conftest import make_context, wait_until
from .load import Load

SERVICE = Path(__file__).with_name("service.py")


class Endpoints:
    """What a test does with endpoints, as the API would; `gateway` is a real worker."""

    def __init__(self, home):
        self.home = home
        self.context = make_context(home)
        self.gateway = Cloud(home.root / "cloud")
        self.routes = Routes(self.context.store, home.root / "cloud" / "routes.json")
        self.routes.start()

    def spec(self, replicas=(1, 1), env=None, **fields) -> dict:
        least, most = replicas
        return {
            "container": {"image": "host", "command": [sys.executable, str(SERVICE)]},
            "resource_requirement": {"resource_shape": "cpu.small", "min_replicas": least, "max_replicas": most},
            "api_tokens": [{"sealed": "x", "sha256": hash_token(TOKEN)}],
            "envs": [{"name": key, "value": value} for key, value in (env or {}).items()],
            "auto_scaler": {"scale_down": {"not_ready_timeout": 5}},
            **fields,
        }

    def create(self, name: str, **options):
        with self.context.store.transaction() as tx:
            return tx.create("endpoint", "ws", name, self.spec(**options))

    def update(self, name: str, **options):
        with self.context.store.transaction() as tx:
            found = tx.get("endpoint", "ws", name, lock=True)
            tx.set_spec(found, self.spec(**options))

    def get(self, name: str):
        with self.context.store.reading() as tx:
            return tx.get("endpoint", "ws", name)

    def delete(self, name: str):
        with self.context.store.transaction() as tx:
            tx.mark_deleted(tx.get("endpoint", "ws", name, lock=True))

    def events(self, name: str) -> list:
        with self.context.store.reading() as tx:
            return [(one.reason, one.message) for one in tx.events(tx.get("endpoint", "ws", name))]

    def happens(self, name: str, reason: str, timeout_s=30.0):
        try:
            wait_until(lambda: any(one == reason for one, _ in self.events(name)), timeout_s)
        except AssertionError:
            traffic = self.gateway.traffic().endpoint(f"ws/{name}")
            raise AssertionError(f"{self.get(name).status} {self.events(name)} {traffic}") from None

    def ready(self, name: str, replicas: int, timeout_s=30.0):
        def look():
            found = self.get(name)
            return found.state == "Ready" and found.status["ready_replicas"] == replicas and found

        try:
            return wait_until(look, timeout_s)
        except AssertionError:
            raise AssertionError(f"{self.get(name).status} {self.events(name)}") from None

    def complete(self, name: str, text: str, timeout_s=60.0):
        """Wait until the revision whose TEXT is that serves all requests, and nothing else is left."""

        def look():
            status = self.get(name).status
            notes = status["details"]
            target = next(one for one in notes["revisions"] if one["number"] == notes["target"])
            replicas = status.get("replicas", [])
            return (
                notes.get("complete_since")
                and {"name": "TEXT", "value": text} in target["template"]["envs"]
                and all(one["revision"] == target["number"] for one in replicas)
            )

        try:
            wait_until(look, timeout_s)
        except AssertionError:
            raise AssertionError(f"{self.get(name).status} {self.events(name)}") from None

    def call(self, name: str, path="/", **options) -> httpx.Response:
        return self.gateway.call(path, endpoint=name, **options)

    def load(self, name: str, rate: float, **options) -> Load:
        return Load(self.gateway.port, f"/ws/{name}/", TOKEN, rate, **options)

    def pids(self, name: str) -> dict[str, int]:
        seen = self.context.driver.observe()
        return {one["id"]: seen[one["workload"]].pid for one in self.get(name).status["replicas"] if one.get("ready")}

    def close(self):
        self.routes.stop()
        for id in self.context.driver.observe():
            self.context.driver.stop(id, 0)
        wait_until(lambda: all(seen.ended for seen in self.context.driver.observe().values()))
        self.context.store.close()
        self.gateway.close()


@pytest.fixture
def cloud(home):
    cloud = Endpoints(home)
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


@pytest.mark.slow  # on a machine that stands still for seconds, the verdict may call a good revision slow
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
}


@pytest.mark.parametrize("kind", BAD)
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
