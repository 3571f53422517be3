"""A plane's endpoints without its API: store, driver, route table, and a real gateway worker; `cloud` runs their controller."""

import sys
from pathlib import Path

import httpx
from tests.cloud.gateway.conftest import TOKEN, Cloud

from leptonai.cloud.control.routes import Routes
from leptonai.cloud.gateway.table import hash_token

from .conftest import make_context, wait_until
from .load import Load

SERVICE = Path(__file__).with_name("service.py")


class Endpoints:
    """What a test does with endpoints, as the API would; `gateway` is a real worker."""

    def __init__(self, home, url=None):
        self.home = home
        self.context = make_context(home, url)
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
