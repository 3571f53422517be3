"""SIGKILL of the plane at random moments of rollouts and jobs: what is lost or doubled, how soon it is back, what the data plane feels.

    python -m bench.plane_kills [--kills 20] [--rate 100] [--seed 1]

A job's worker appends a line when it starts, so a lost or doubled start shows in the file. Requests to the endpoint go on all the
time, through gateway workers that the killed plane had started.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.cloud.control.load import Load

from .cloud import Up, wait
from .common import save, show


@dataclass
class Outcome:
    """`lost`, `doubled`: starts of workers of jobs. `unfinished`: jobs without exactly one end. Times in seconds."""

    kills: int
    jobs: int
    lost: int
    doubled: int
    unfinished: int
    replicas_left_over: int
    answered: int
    planned: float
    failed: int
    ready_s: list[float]

    @property
    def void(self) -> bool:
        return self.answered < 0.8 * self.planned

    @property
    def ready_p95_s(self) -> float:
        return sorted(self.ready_s)[int(0.95 * (len(self.ready_s) - 1))]


def measure(home: Path, *, kills: int, rate: float, seed: int, replicas: int = 2) -> Outcome:
    chance, up = random.Random(seed), Up(home)
    files = home / "workspaces" / "default" / "files"
    up.start()
    ready_s: list[float] = []
    jobs: dict[str, int] = {}
    try:
        up.api("POST", "/deployments", up.endpoint("echo", replicas, TEXT="v0"))
        wait(lambda: up.status("echo")["state"] == "Ready", 60)
        files.mkdir(parents=True, exist_ok=True)
        ran = files / "ran"
        with Load(up.port, "/default/echo/", up.key, rate) as load:
            for kill in range(1, kills + 1):
                up.api("PATCH", "/deployments/echo", up.endpoint("echo", replicas, TEXT=f"v{kill}"))
                workers = 1 + kill % 3
                made = up.api("POST", "/jobs", _job(f"j{kill}", workers, ran, chance.uniform(0, 1)))
                jobs[made["metadata"]["id"]] = workers
                time.sleep(chance.uniform(0.0, 2.0))
                up.kill()
                ready_s.append(up.start())
            wait(
                lambda: all(_state(up, job) == "Completed" for job in jobs),
                120,
                lambda: str([(job, _state(up, job)) for job in jobs]),
            )
            wait(
                lambda: up.text("echo") == f"v{kills}" and len(_replicas(up)) == replicas,
                120,
                lambda: str(up.status("echo")),
            )
        left_over = len(_replicas(up)) - replicas
        started = Counter(ran.read_text().split())
        unfinished = sum(_ends(up, job) != 1 for job in jobs)
    finally:
        up.end()
    expected = Counter({f"j{number}-{index}": 1 for number in range(1, kills + 1) for index in range(1 + number % 3)})
    return Outcome(
        kills, len(jobs), (expected - started).total(), (started - expected).total(), unfinished, left_over,
        load.answered, rate * load.seconds, load.answered - load.statuses[200] + len(load.errors), ready_s,
    )  # fmt: skip


def _job(name: str, workers: int, ran: Path, seconds: float) -> dict:
    # Appending less than a page is atomic: one line per start of a worker, whoever started it.
    script = f"echo {name}-${{LEPTON_JOB_WORKER_INDEX:-0}} >> {ran}; sleep {seconds:.2f}"
    return {
        "metadata": {"name": name},
        "spec": {
            "container": {"image": "host", "command": ["bash", "-c", script]},
            "resource_shape": "cpu.small",
            "completions": workers,
            "parallelism": workers,
        },
    }


def _state(up: Up, job: str) -> str:
    return up.api("GET", f"/jobs/{job}")["status"]["state"]


def _replicas(up: Up) -> list:
    return up.api("GET", "/deployments/echo/replicas")


def _ends(up: Up, job: str) -> int:
    """How often the end of the job was told."""
    return sum(event["count"] for event in up.api("GET", f"/jobs/{job}/events") if event["reason"] == "Completed")


def rows(found: Outcome) -> list[dict]:
    return [
        {"what": "kills of the plane", "ours": found.kills, "unit": f"with {found.jobs} jobs, {found.kills} rollouts"},
        {"what": "workers lost", "ours": found.lost, "unit": "starts", "target": "0"},
        {"what": "workers doubled", "ours": found.doubled, "unit": "starts", "target": "0"},
        {"what": "jobs without exactly one end", "ours": found.unfinished, "unit": "jobs", "target": "0"},
        {"what": "replicas left over", "ours": found.replicas_left_over, "unit": "replicas", "target": "0"},
        {"what": "API ready again, p95", "ours": found.ready_p95_s, "unit": "s", "target": "≤ 3"},
        {"what": "requests answered", "ours": found.answered, "unit": f"of {found.planned:.0f}", "target": "≥ 80 %"},
        {"what": "requests failed", "ours": found.failed, "unit": "requests", "target": "0"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lepton-kills-") as folder:
        found = measure(Path(folder), **vars(options))
    table = rows(found)
    show(table)
    if found.void:
        raise SystemExit("void: less than 80 % of the load was sent")
    save("plane_kills", table, f"{options.rate:g} requests/s, seed {options.seed}")


if __name__ == "__main__":
    main()
