"""A plane without its API: a store, a driver, a loop with the controller of jobs, on a home of its own."""

import time
from collections.abc import Callable

import pytest

from leptonai.base.home import Home
from leptonai.cloud.accounts.vault import Vault
from leptonai.cloud.compute.driver import Resources
from leptonai.cloud.compute.local import LocalDriver
from leptonai.cloud.control.context import Context
from leptonai.cloud.control.loop import Loop, make_controllers
from leptonai.cloud.store import Resource, Store

CAPACITY = Resources(4, 8 << 30)


def make_context(home: Home, url: str | None = None) -> Context:
    """`url`: of the database; None: SQLite in the home."""
    store = Store(url or f"sqlite:///{home.root}/cloud/plane.db")
    driver = LocalDriver(home, capacity=CAPACITY, isolate=False)
    return Context(store, driver, home, Vault.open(home.root / "cloud" / "vault.key"))


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)
    return value


class Plane:
    """What a test does with jobs, as the API would."""

    def __init__(self, context: Context, loop: Loop | None = None):
        self.context, self.loop = context, loop

    def job(self, name: str, script: str, workspace: str = "default", **spec) -> Resource:
        spec = {"container": {"image": "host", "command": ["bash", "-c", script]}, **spec}
        with self.context.store.transaction() as tx:
            return tx.create("job", workspace, name, spec)

    def get(self, name: str) -> Resource:
        with self.context.store.reading() as tx:
            return tx.get("job", "default", name)

    def state(self, name: str) -> str:
        return self.get(name).state

    def wait(self, name: str, *states: str, timeout_s: float = 30.0) -> Resource:
        return wait_until(lambda: (job := self.get(name)).state in states and job, timeout_s)

    def change(self, name: str, **spec) -> None:
        with self.context.store.transaction() as tx:
            job = tx.get("job", "default", name, lock=True)
            tx.set_spec(job, {**job.spec, **spec})

    def delete(self, name: str) -> None:
        with self.context.store.transaction() as tx:
            tx.mark_deleted(tx.get("job", "default", name, lock=True))

    def events(self, name: str) -> list[str]:
        with self.context.store.reading() as tx:
            return [event.reason for event in tx.events(tx.get("job", "default", name))]

    def log(self, name: str, replica: int = 0) -> str:
        id = self.get(name).status["replicas"][replica]["workload"]
        return "".join(map(str, self.context.driver.logs(id)))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, home):
    """Of a new database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{home.root}/cloud/plane.db"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def plane(home, url):
    context = make_context(home, url)
    with Loop(context, make_controllers(context, ("job",))) as loop:
        yield Plane(context, loop)
    for id in context.driver.observe():
        context.driver.stop(id, 0)
    wait_until(lambda: all(seen.ended for seen in context.driver.observe().values()))
    context.store.close()
