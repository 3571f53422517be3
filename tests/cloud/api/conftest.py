import datetime

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")

import anyio.from_thread
import httpx
from sqlalchemy import update

from leptonai.base.home import Home
from leptonai.cloud.accounts.access import Access
from leptonai.cloud.accounts.keys import make_key
from leptonai.cloud.accounts.vault import Vault
from leptonai.cloud.accounts.workspaces import add_member, create_workspace
from leptonai.cloud.api.app import Api
from leptonai.cloud.compute.local import LocalDriver
from leptonai.cloud.plane import Plane
from leptonai.cloud.store import SYSTEM, Store
from leptonai.cloud.store.tables import keys as keys_table


class Server:
    """The API in this process, its store and driver real; two workspaces, `mine` and `other`, and a key of each kind."""

    def __init__(self, folder, url=None):
        self.home = Home(folder)
        self.store = Store(url or f"sqlite:///{folder / 'cloud' / 'plane.db'}")
        vault = Vault.open(folder / "cloud" / "vault.key")
        access = Access(self.store, max_failures=10**9)
        self.plane = Plane(
            self.home, self.store, vault, access, "http://127.0.0.1", LocalDriver(self.home), frozenset({"127.0.0.1"})
        )
        self.api = Api(self.plane)
        with self.store.connection() as connection:
            self.operator = create_workspace(connection, "default", "op").key
            self.admin = create_workspace(connection, "mine", "ann").key
            self.foreign = create_workspace(connection, "other", "eve").key
            self.keys = {"admin": self.admin}
            for role in ("developer", "viewer", "billing"):
                add_member(connection, "mine", role, role, maker=SYSTEM)
                self.keys[role] = make_key(connection, "mine", role, maker=SYSTEM, scopes=["*"]).key
            expired = make_key(connection, "mine", "ann", maker=SYSTEM, scopes=["*"])
            yesterday = datetime.datetime.now() - datetime.timedelta(days=1)
            connection.execute(
                update(keys_table)
                .where(keys_table.c.prefix == expired.prefix)
                .values(expires_at=int(yesterday.timestamp() * 1000))
            )
            self.expired = expired.key
        self._portal = anyio.from_thread.start_blocking_portal()
        self.portal = self._portal.__enter__()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url="http://127.0.0.1")

    def call(self, method, path, body=None, *, key="", workspace="mine", headers=None, **options):
        """`path` below the workspace, or absolute (`/api…`). `key`: a credential, None for none, "" for the admin's."""
        key = self.admin if key == "" else key
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        if not path.startswith(("/api", "/healthz", "/metrics", "//")):
            path = f"/api/v2/workspaces/{workspace}{path}"
        if body is not None:
            options["json"] = body

        async def send():
            return await self.client.request(method, path, headers=headers, **options)

        return self.portal.call(send)

    def close(self):
        self._portal.__exit__(None, None, None)
        self.store.close()


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


def _url(request):
    """None: SQLite in the home."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres").new_database()


@pytest.fixture(scope="module", params=DATABASES)
def shared(request, tmp_path_factory):
    """For tests that only read, or whose names are their own."""
    server = Server(tmp_path_factory.mktemp("home"), _url(request))
    yield server
    server.close()


@pytest.fixture(params=DATABASES)
def server(request, tmp_path):
    server = Server(tmp_path, _url(request))
    yield server
    server.close()
