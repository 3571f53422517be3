"""A driver on a home of its own, and waiting for what it sees. Workloads that a test leaves are ended."""

import time
from collections.abc import Callable

import pytest

from leptonai.base.home import Home
from leptonai.cloud.compute.driver import Observation, Resources, Workload
from leptonai.cloud.compute.local import LocalDriver

MIB = 1 << 20


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)
    return value


def ended(driver: LocalDriver, id: str, timeout_s: float = 20.0) -> Observation:
    return wait_until(lambda: (seen := driver.observe()[id]).ended and seen, timeout_s)


def running(driver: LocalDriver, id: str) -> Observation:
    return wait_until(lambda: (seen := driver.observe()[id]).state == "running" and seen)


def workload(id: str, script: str, **values) -> Workload:
    """`script` for bash; small, unless `resources` says otherwise."""
    values = {"owner": f"job/{id}", "resources": Resources(0.1, 256 * MIB)} | values
    return Workload(id, "default", command=("bash", "-c", script), **values)


def text(driver: LocalDriver, id: str, stream: str | None = None) -> str:
    return "".join(str(line) for line in driver.logs(id) if stream in (None, line.stream))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def driver(home):
    driver = LocalDriver(home, capacity=Resources(4, 8192 * MIB), isolate=False)
    yield driver
    for id, seen in driver.observe().items():
        if not seen.ended:
            driver.stop(id, 0)
    wait_until(lambda: all(seen.ended for seen in driver.observe().values()))
