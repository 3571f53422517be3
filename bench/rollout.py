"""Rolling updates under load through a real `lep up`: how many requests fail, and what they cost in time.

    python -m bench.rollout [--updates 5] [--rate 200] [--replicas 4] [--requests 20000]

Load comes at a steady rate over kept connections while one update follows the other; each is over when only the new revision
is left. Before the first and after the last the same load runs undisturbed: `steady`. A run that sent less than 80 % of its load is void.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cloud.control.load import Load

from .cloud import Up, wait
from .common import save, show


@dataclass
class Outcome:
    """Times in seconds. `failed`: answers that are not 200, and connections that broke."""

    answered: int
    planned: float
    failed: int
    updates: int
    steady_p99_s: float
    updating_p99_s: float
    longest_update_s: float
    seconds: float

    @property
    def void(self) -> bool:
        return self.answered < 0.8 * self.planned


def measure(home: Path, *, updates: int, rate: float, replicas: int, requests: int, workers: int = 1) -> Outcome:
    up = Up(home, "--workers", str(workers))
    up.start()
    try:
        up.api("POST", "/deployments", up.endpoint("echo", replicas, TEXT="v0"))
        wait(lambda: up.status("echo")["state"] == "Ready", 60)
        with Load(up.port, "/default/echo/", up.key, rate) as load:
            time.sleep(2)  # connections open, caches fill
            steady = [(time.monotonic(), time.monotonic() + max(3.0, requests / rate / 10))]
            time.sleep(steady[0][1] - steady[0][0])
            began, longest_s = time.monotonic(), 0.0
            for number in range(1, updates + 1):
                at = time.monotonic()
                up.api("PATCH", "/deployments/echo", up.endpoint("echo", replicas, TEXT=f"v{number}"))
                wait(lambda number=number: _is_complete(up, replicas, number), 120, lambda: str(up.status("echo")))
                longest_s = max(longest_s, time.monotonic() - at)
            ended = time.monotonic()
            rest_s = max(3.0, (requests - load.answered) / rate)
            steady.append((ended, ended + rest_s))
            time.sleep(rest_s)
        if up.text("echo") != f"v{updates}":
            raise RuntimeError(f"a good revision was taken back: {up.status('echo')}")
    finally:
        up.end()
    failed = load.answered - load.statuses[200] + len(load.errors)
    return Outcome(
        load.answered, rate * load.seconds, failed, updates,
        load.p99_s(*steady[1]), load.p99_s(began, ended), longest_s, load.seconds,
    )  # fmt: skip


def _is_complete(up: Up, replicas: int, number: int) -> bool:
    """Only replicas of this update are left: they are the newest of the list, and no others."""
    found = up.api("GET", "/deployments/echo/replicas")
    return len(found) == replicas and up.status("echo")["state"] in ("Ready", "Updating") and _all_new(up, number)


def _all_new(up: Up, number: int) -> bool:
    return all(up.text("echo") == f"v{number}" for _ in range(4))


def rows(found: Outcome) -> list[dict]:
    ratio = found.updating_p99_s / found.steady_p99_s
    return [
        {"what": "requests answered", "ours": found.answered, "unit": f"of {found.planned:.0f}", "target": "≥ 80 %"},
        {"what": f"failed during {found.updates} updates", "ours": found.failed, "unit": "requests", "target": "0"},
        {"what": "p99 steady", "ours": found.steady_p99_s * 1000, "unit": "ms"},
        {"what": "p99 while updating", "ours": found.updating_p99_s * 1000, "unit": "ms", "ratio": ratio, "target": "≤ 2 × steady"},
        {"what": "longest update", "ours": found.longest_update_s, "unit": "s"},
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--requests", type=int, default=20_000, help="at least so many in all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lepton-rollout-") as folder:
        found = measure(Path(folder), **vars(options))
    table = rows(found)
    show(table)
    if found.void:
        raise SystemExit("void: less than 80 % of the load was sent")
    save("rollout", table, f"{options.rate:g} requests/s, {options.replicas} replicas")


if __name__ == "__main__":
    main()
