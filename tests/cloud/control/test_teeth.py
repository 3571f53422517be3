"""Tests of the tests: with a known-bad change in the code each of these robustness checks must fail."""

import os
import signal
import socket
import subprocess
import sys

import msgspec
import pytest
from tests.cloud.compute.test_admission import test_no_workspace_goes_beyond_its_quota as quota
from tests.cloud.compute.test_sandbox import HOSTILE

from leptonai.base.home import Home
from leptonai.cloud.accounts.vault import Vault
from leptonai.cloud.compute import admission
from leptonai.cloud.compute.driver import Capacity, Resources, Workload
from leptonai.cloud.compute.local import LocalDriver
from leptonai.cloud.control import endpoints, rollout, scaling, verdict
from leptonai.cloud.control.context import Context
from leptonai.cloud.store import Store

from . import test_endpoints, test_rollout, test_verdict
from .endpoints import Endpoints

FAILS = (AssertionError, BaseExceptionGroup)

# What is broken, how, and the test that has to notice.
DEFECTS = {
    "one slow slice is enough": ((verdict, "SLOW_SLICES", 1), test_verdict.test_an_equal_revision_stays_also_on_a_machine_that_stands_still_again_and_again),
    "time is not looked at": ((verdict, "SLOWER", 1e9), test_verdict.test_one_three_times_as_slow_is_found_within_twenty_seconds),
    "errors are not looked at": ((verdict, "BY_CHANCE", 0.0), test_verdict.test_one_of_five_requests_failing_is_found_within_fifteen_seconds),
    "errors are counted without comparing": ((verdict, "by_chance", lambda *_: 0.0), test_verdict.test_errors_that_both_have_are_not_blamed_on_the_new_one),
    "every start may take ten minutes": (
        (rollout, "LEAST_START_S", 600.0),
        lambda: test_rollout.test_a_revision_that_does_not_answer_has_the_time_that_the_stable_one_lets_us_expect(0.2, {}, 10),
    ),
    "the canary takes the place of an old one": ((rollout, "_proven", lambda *_: True), test_rollout.test_a_canary_is_beside_all_the_old_ones_until_it_is_judged),
    "silence is not looked at": ((rollout, "DEAD_S", 1e9), test_rollout.test_one_that_answers_its_probe_no_more_is_replaced_and_said),
    "scaling down at once": (
        (scaling, "DOWN_AFTER_S", 0.0),
        lambda: test_rollout.test_a_saw_tooth_does_not_flap.hypothesis.inner_test(20.0, 600, 10),
    ),
    "what runs is not counted": ((admission, "_left_of", lambda limits, running: dict(limits)), quota),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_check_finds_the_defect(monkeypatch, defect):
    (module, name, value), check = DEFECTS[defect]
    check()
    monkeypatch.setattr(module, name, value)
    with pytest.raises(FAILS):
        check()


def test_a_skipped_drain_is_found(home, monkeypatch):
    """The stop comes at once, and hard: streams that are open at that moment are cut."""
    monkeypatch.setattr(rollout, "DRAIN_S", -1.0)
    monkeypatch.setattr(endpoints, "GRACE_S", 0.0)
    cloud = Endpoints(home)
    try:
        loop = test_endpoints.Loop(cloud.context, test_endpoints.make_controllers(cloud.context, ("endpoint",)))
        with loop, pytest.raises(FAILS):
            test_endpoints.test_streams_are_drained_when_a_replica_goes(cloud)
    finally:
        cloud.close()


# -- what is admitted is on the disk before anything starts


def check_admission_is_durable(driver: LocalDriver, monkeypatch) -> None:
    done: list[str] = []
    fsync, replace, popen = os.fsync, os.replace, subprocess.Popen
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))[1]
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"→ {b}"), replace(a, b))[1])
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: (done.append("start"), popen(*a, **k))[1])
    driver.launch(Workload("w", "default", "job/w", ("true",), resources=Resources(0.1, 1 << 28)))
    begins, renamed = done.index("start"), done.index(f"→ {driver.root / 'admitted.json'}")
    assert renamed < begins, "started before it was written"
    assert "admitted" in done[renamed - 1] and done[renamed - 1].startswith(str(driver.root)), (
        "renamed before its bytes were safe"
    )
    assert str(driver.root) in done[renamed + 1 : begins], "started before its name was safe"


def test_admission_is_durable_before_anything_starts(driver, monkeypatch):
    check_admission_is_durable(driver, monkeypatch)


def test_a_dropped_fsync_of_what_was_admitted_is_found(driver, monkeypatch):
    from leptonai.cloud.compute import local

    def careless(path, data):
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(data)
        os.replace(temporary, path)

    monkeypatch.setattr(local, "write_atomic", careless)
    with pytest.raises(FAILS):
        check_admission_is_durable(driver, monkeypatch)


@pytest.fixture
def driver(home):
    driver = LocalDriver(home, capacity=Resources(4, 8 << 30), isolate=False)
    yield driver
    for id in driver.observe():
        driver.stop(id, 0)


# -- the status is written before the act that it announces


class Crash(BaseException):
    """The plane is killed at this point."""


class Machine:
    """A driver that remembers, and after whose first launch the plane dies."""

    def __init__(self):
        self.launched: dict[str, Workload] = {}
        self.dies = True

    def launch(self, workload: Workload) -> None:
        self.launched.setdefault(workload.id, workload)
        if self.dies:
            self.dies = False
            raise Crash

    def observe(self, owner=None):
        return {}

    def stop(self, id, grace_s=0.0):
        pass

    def capacity(self):
        return Capacity(Resources(4, 8 << 30), Resources(0, 0))


def check_a_kill_after_a_launch_mixes_nothing_up(home: Home, controller) -> None:
    """The spec changes while no plane is there: the replica of the new revision must be one of the new spec."""
    store = Store(f"sqlite:///{home.root}/cloud/plane.db")
    machine = Machine()
    context = Context(store, machine, home, Vault.open(home.root / "cloud" / "vault.key"))

    def spec(text: str) -> dict:
        return {"container": {"image": "host", "command": ["serve"]}, "envs": [{"name": "TEXT", "value": text}]}

    try:
        with store.transaction() as tx:
            made = tx.create("endpoint", "ws", "e", spec("one"))
        with pytest.raises(Crash):
            controller(context).reconcile(made)
        with store.transaction() as tx:
            now = tx.set_spec(tx.get("endpoint", "ws", "e", lock=True), spec("two"))
        for _ in range(3):
            controller(context).reconcile(now)
            with store.reading() as tx:
                now = tx.get("endpoint", "ws", "e")
        notes = msgspec.convert(now.status["details"], rollout.Notes)
        templates = {one.number: one.template["envs"][0]["value"] for one in notes.revisions}
        for one in notes.replicas:
            launched = machine.launched.get(rollout.workload_id(now.uid, one.serial))
            assert launched is None or launched.env["TEXT"] == templates[one.revision], "a replica of another revision"
    finally:
        store.close()


class ActsFirst(endpoints.EndpointController):
    """The defect: workloads are touched, and only then is it written down."""

    def _write(self, resource, spec, todo, workloads):
        self._launch(resource, spec, todo, workloads)
        return super()._write(resource, spec, todo, workloads)


def test_a_kill_after_a_launch_mixes_nothing_up(home):
    check_a_kill_after_a_launch_mixes_nothing_up(home, endpoints.EndpointController)


def test_a_status_that_is_written_after_the_act_is_found(home):
    with pytest.raises(FAILS):
        check_a_kill_after_a_launch_mixes_nothing_up(home, ActsFirst)


# -- the hostile script of S47


def test_the_hostile_script_reaches_all_of_it_where_nothing_protects(tmp_path):
    home = tmp_path / "home"
    for name in (
        "cloud/vault.key",
        "cloud/plane.db",
        "admin.key",
        "workspaces/other/files/secret",
        "cloud/workloads/neighbour/work/secret",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("secret")
    script = "\n".join(line for line in HOSTILE.splitlines() if "/etc/" not in line)
    plane = subprocess.Popen(["sleep", "1000"])
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home / "cloud" / "plane.sock"))
            listener.listen()
            environment = {**os.environ, "LEPTON_HOME": str(home)}
            done = subprocess.run(
                [sys.executable, "-c", script, str(plane.pid)],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
    finally:
        plane.send_signal(signal.SIGKILL)
        plane.wait()
    reached = {line.split()[0] for line in done.stdout.splitlines() if "REACHED" in line}
    assert reached >= {"environ", "signal", "vault", "admin", "database", "neighbour", "workload", "socket"}, (
        done.stdout
    )
