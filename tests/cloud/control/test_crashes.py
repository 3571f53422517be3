"""SIGKILL of the controllers at random moments of many jobs: each worker runs as often as its rules say, each end is told once."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Plane, make_context, wait_until

ROOT = Path(__file__).parents[3]
KILLS = 20


class Process:
    """The plane's process; `kill` is SIGKILL."""

    def __init__(self, home: Path):
        self.home = home
        self.child: subprocess.Popen | None = None

    def start(self) -> float:
        """Seconds until it acts."""
        began = time.monotonic()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.cloud.control.plane", str(self.home)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert self.child.stdout.readline() == b"active\n"
        return time.monotonic() - began

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


@pytest.fixture
def process(home):
    process = Process(home.root)
    yield process
    if process.child is not None and process.child.poll() is None:
        process.kill()


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(home, process, tmp_path):
    chance = random.Random(20)
    context = make_context(home)
    plane = Plane(context)
    ran = tmp_path / "ran"
    names = []
    ready_s = []
    kinds = [
        {"completions": 1, "parallelism": 1},
        {"completions": 3, "parallelism": 3},
        {"completions": 4, "parallelism": 2},
        {"completions": 1, "parallelism": 1, "max_job_failure_retry": 1},
    ]
    for kill in range(KILLS):
        ready_s.append(process.start())
        for kind, spec in enumerate(kinds):
            name = f"j{kill}-{kind}"
            names.append(name)
            # Appending less than a page is atomic: one line per start of a worker, whoever started it.
            script = f"echo $LEPTON_WORKER_ID >> {ran}; sleep 0.{chance.randrange(10)}"
            if "max_job_failure_retry" in spec:
                script += "; [ $LEPTON_JOB_FAILURE_COUNT = 1 ]"
            plane.job(name, script, resource_shape="cpu.small", **spec)
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
    ready_s.append(process.start())
    wait_until(lambda: all(plane.state(name) == "Completed" for name in names), 120)
    process.kill()

    started = sorted(ran.read_text().split())
    expected = []
    for name in names:
        workers = kinds[int(name[-1])]["completions"]
        expected += [f"{name}-{index}" for index in range(workers)]
        if name.endswith("-3"):
            expected.append(f"{name}-0-a2r0")
    assert started == sorted(expected)
    for name in names:
        job = plane.get(name)
        assert job.status["succeeded"] == kinds[int(name[-1])]["completions"]
        with context.store.reading() as tx:
            ends = [event.count for event in tx.events(job) if event.reason == "Completed"]
        assert ends == [1]
        assert len(job.status["job_history"]) == (2 if name.endswith("-3") else 1)
    print(f"{KILLS} kills, {len(names)} jobs, {len(started)} workers; ready after {sorted(ready_s)[-2]:.2f} s (p95)")
    assert all(seen.ended for seen in context.driver.observe().values())


def test_stop_survives_a_kill(home, process):
    context = make_context(home)
    plane = Plane(context)
    plane.job("long", "sleep 1000", completions=2, parallelism=2)
    process.start()
    plane.wait("long", "Running")
    process.kill()
    plane.change("long", stopped=True)  # asked for while no controller is there
    assert {seen.state for seen in context.driver.observe().values()} == {"running"}
    process.start()

    wait_until(lambda: plane.get("long").state == "Stopped", 60)
    assert {seen.reason for seen in context.driver.observe().values()} == {"Stopped"}
