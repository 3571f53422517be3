"""`lep up` as a process: whenever SIGTERM comes, it ends soon; a second one ends it at once; nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

from leptonai.base.home import Home
from leptonai.cloud import instance
from leptonai.cloud.server import free_port

from .conftest import processes_of
from .control.conftest import wait_until

SERVICE = Path(__file__).parent / "control" / "service.py"
ENDS_S = 10.0


class Up:
    """One `lep up` in the foreground, as a service manager runs it."""

    def __init__(self, folder: Path):
        self.home, self.port = Home(folder), free_port("127.0.0.1")
        command = [sys.executable, "-m", "leptonai.cli.main", "up", "--home", str(folder), "--port", str(self.port)]
        environment = {**os.environ, "LEPTON_HOME": str(folder)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ready(self) -> None:
        instance.wait_until_ready(self.home, 60, lambda: self.process.poll() is None)

    def call(self, method: str, path: str, **options) -> httpx.Response:
        key = (self.home.root / "admin.key").read_text().strip()
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers={"authorization": f"Bearer {key}"}, timeout=30, **options)

    def api(self, method: str, path: str, **options) -> httpx.Response:
        answer = self.call(method, f"/api/v2/workspaces/default{path}", **options)
        assert answer.status_code < 300, answer.text
        return answer

    def ended(self, limit_s: float = ENDS_S) -> tuple[int, float]:
        """Exit code, and the seconds that it took."""
        began = time.monotonic()
        return self.process.wait(limit_s), time.monotonic() - began

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in processes_of(self.home.root):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def up(tmp_path):
    started = Up(tmp_path / "home")
    yield started
    started.clean()


@pytest.mark.parametrize("moment", ["modules load", "lock is held", "socket is there", "worker starts"])
def test_sigterm_during_start_up_ends_it(up, moment):
    cloud = up.home.root / "cloud"
    there = {
        "modules load": lambda: Path(f"/proc/{up.process.pid}").exists(),
        "lock is held": lambda: instance.holder(up.home, "plane"),
        "socket is there": lambda: (cloud / "plane.sock").exists(),
        "worker starts": lambda: (cloud / "gateway.log").exists(),
    }[moment]
    wait_until(there)
    up.process.send_signal(signal.SIGTERM)
    code, seconds = up.ended()
    print(f"{moment}: exit code {code} after {seconds:.2f} s")
    assert code == (-signal.SIGTERM if moment == "modules load" else 0)
    wait_until(lambda: not processes_of(up.home.root), ENDS_S)


def test_sigterm_during_a_rollout_ends_it_and_the_next_one_goes_on(up, tmp_path):
    up.ready()
    spec = {
        "metadata": {"name": "echo"},
        "spec": {
            "container": {"image": "host", "command": [sys.executable, str(SERVICE)]},
            "resource_requirement": {"resource_shape": "cpu.small", "min_replicas": 1, "max_replicas": 1},
            "envs": [{"name": "TEXT", "value": "one"}],
        },
    }
    up.api("POST", "/deployments", json=spec)
    wait_until(lambda: up.api("GET", "/deployments/echo").json()["status"]["state"] == "Ready")
    spec["spec"]["envs"] = [{"name": "TEXT", "value": "two"}, {"name": "START_S", "value": "1"}]
    up.api("PATCH", "/deployments/echo", json=spec)
    wait_until(lambda: up.api("GET", "/deployments/echo").json()["status"]["state"] == "Updating")
    up.process.send_signal(signal.SIGTERM)
    code, seconds = up.ended()
    print(f"during a rollout: exit code {code} after {seconds:.2f} s")
    assert code == 0

    second = Up(up.home.root)
    try:
        second.ready()
        wait_until(lambda: "two" in second.call("GET", "/default/echo/").text, 60)
        second.api("DELETE", "/deployments/echo")
        wait_until(lambda: not any("service.py" in one for one in processes_of(up.home.root).values()))
        instance.stop(second.home)
        assert second.ended()[0] == 0
    finally:
        second.clean()


def test_a_follower_of_the_api_does_not_hold_it_up(up):
    up.ready()
    spec = {"container": {"image": "host", "command": ["sleep", "1000"]}, "resource_shape": "cpu.small"}
    job = "/jobs/" + up.api("POST", "/jobs", json={"metadata": {"name": "talk"}, "spec": spec}).json()["metadata"]["id"]
    wait_until(lambda: up.api("GET", job).json()["status"]["state"] == "Running")
    replica = up.api("GET", f"{job}/replicas").json()[0]["metadata"]["id"]
    opened = threading.Event()

    def follow() -> None:
        key = (up.home.root / "admin.key").read_text().strip()
        url = f"http://127.0.0.1:{up.port}/api/v2/workspaces/default{job}/replicas/{replica}/log"
        try:
            with httpx.stream("GET", url, headers={"authorization": f"Bearer {key}"}, timeout=30) as answer:
                opened.set()
                for _ in answer.iter_raw():
                    pass
        except httpx.HTTPError:
            pass

    thread = threading.Thread(target=follow)
    thread.start()
    assert opened.wait(20)
    up.process.send_signal(signal.SIGTERM)
    code, seconds = up.ended()
    thread.join(30)
    print(f"with a follower: exit code {code} after {seconds:.2f} s")
    assert code == 0


def test_a_second_sigterm_forces(up):
    up.ready()
    up.process.send_signal(signal.SIGSTOP)  # so that both are there before it does anything about the first
    up.process.send_signal(signal.SIGTERM)
    up.process.send_signal(signal.SIGINT)
    up.process.send_signal(signal.SIGCONT)
    code, seconds = up.ended(5)
    print(f"two signals: exit code {code} after {seconds:.2f} s")
    assert code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    wait_until(lambda: not processes_of(up.home.root), ENDS_S)


def test_lep_down_finds_one_that_is_still_starting(up):
    wait_until(lambda: instance.holder(up.home, "plane"))
    assert instance.read_state(up.home) is None
    instance.stop(up.home, 20)
    assert up.ended()[0] == 0
