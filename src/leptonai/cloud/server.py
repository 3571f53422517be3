"""`lep up` as a process: the plane (API, controllers, upkeep) and, beside it, the gateway's workers.

The plane may be killed at any moment: workloads live under their shims, the gateway goes on with the last routes, and the next
plane of this home finds both again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from .. import __version__
from ..base.errors import InvalidInput, Refused
from ..base.files import write_atomic
from ..base.home import Home
from .accounts.access import Access
from .accounts.vault import Vault, check_vault
from .accounts.workspaces import count_workspaces, create_workspace
from .compute import sandbox
from .ending import Ending, run_until_asked
from .instance import State, folder, only_one, write_state
from .plane import Plane
from .store import Store
from .workers import Workers

log = logging.getLogger("lepton.server")
MAX_SOCKET_PATH = 100
"""Linux takes 107 bytes for the path of a unix socket."""
GRACE_S = 3
"""For calls of the API that are open at the end; followers of logs begin again where they were."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """How `lep up` was called. `public_url`: what clients reach it by, if that is not host and port."""

    home: Home
    role: str = "all"
    host: str = "127.0.0.1"
    port: int = 8080
    database: str | None = None
    workers: int = 1
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False
    public_url: str | None = None

    def check(self) -> None:
        """Raises Refused for what would put keys on the wire in the clear."""
        if bool(self.certificate) != bool(self.key):
            raise InvalidInput("a certificate and its key belong together", fix="Give --certificate and --key.")
        if not is_loopback(self.host) and not self.certificate and not self.behind_proxy:
            raise Refused(
                f"{self.host} can be reached from outside, and keys would travel in the clear",
                fix="Give --certificate and --key, or --behind-proxy if a proxy in front does TLS.",
            )

    @property
    def url(self) -> str:
        if self.public_url:
            return self.public_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"{'https' if self.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def database_url(home: Home, given: str | None) -> str:
    return given or f"sqlite:///{folder(home) / 'plane.db'}"


def first_start(store: Store, home: Home) -> str | None:
    """Make the workspace `default` and its admin's key if there is no workspace; returns the key then, and only then."""
    with store.connection() as connection:
        if count_workspaces(connection):
            return None
        made = create_workspace(connection, "default", "admin")
        # Before the commit: a key that is in the database is in the file too. One that is only in the file opens nothing.
        write_private(home.root / "admin.key", made.key + "\n")
        return made.key


def write_private(path: Path, text: str) -> None:
    write_atomic(path, text)  # its temporary file is 0600 from the first byte, and so is the result
    os.chmod(path, 0o600)


def run(settings: Settings, say: Callable[[str], None], *, hide_key: bool = False) -> None:
    """Run until SIGTERM or SIGINT. `say` gets the sentences for the person who started it; with `hide_key` no key is in them."""
    settings.check()
    with only_one(settings.home, "gateway" if settings.role == "gateway" else "plane"):
        workers = _workers(settings) if settings.role != "plane" else None
        work = partial(_run_gateway, settings, say, workers)
        if settings.role != "gateway":
            work = partial(_run_plane, settings, say, hide_key, workers)
        run_until_asked(work, force=workers.kill if workers else lambda: None)


def _run_gateway(settings: Settings, say: Callable[[str], None], workers: Workers, ending: Ending) -> None:
    workers.start()
    say(f"Gateway: {settings.url}")
    ending.asked.wait()
    workers.stop()


def _workers(settings: Settings) -> Workers:
    (folder(settings.home) / "gateway").mkdir(parents=True, exist_ok=True)
    return Workers(settings.home, settings.workers, settings.host, settings.port, settings.certificate, settings.key)


def _run_plane(
    settings: Settings, say: Callable[[str], None], hide_key: bool, workers: Workers | None, ending: Ending
) -> None:
    import uvicorn

    from .accounts.quotas import Limits
    from .api.app import Api
    from .compute.local import LocalDriver
    from .control.context import Context
    from .control.loop import Loop
    from .control.routes import Routes
    from .upkeep import Upkeep

    home = settings.home
    store = Store(database_url(home, settings.database))
    key = first_start(store, home)
    vault = Vault.open(folder(home) / "vault.key")
    with store.connection() as connection:
        check_vault(connection, vault)
    driver = LocalDriver(home, limits=Limits(store))
    host = urlsplit(settings.url).hostname or settings.host
    hosts = frozenset({*LOOPBACK, host}) if is_loopback(settings.host) and not settings.behind_proxy else None
    plane = Plane(home, store, vault, Access(store), settings.url, driver, hosts)

    listener, address = _listen(home)
    publish_address(home, address)
    config = uvicorn.Config(
        Api(plane), ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=75, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    server = uvicorn.Server(config)
    ending.when_asked(lambda: setattr(server, "should_exit", True))
    context = Context(store, driver, home, vault)
    loop, upkeep = Loop(context), Upkeep(store, folder(home))
    routes = Routes(store, folder(home) / "routes.json")
    state = State(os.getpid(), settings.role, settings.url, address, store.dialect, time.time(), __version__)
    try:
        routes.start()
        loop.start()
        upkeep.start()
        if workers:
            workers.start()
        write_state(home, state)
        if not ending.asked.is_set():
            _greet(settings, None if hide_key else key, say)
        _runner()(server.serve([listener]))
    finally:
        for part in (workers, upkeep, loop, routes):
            if part:
                part.stop()
        store.close()


def _listen(home: Home) -> tuple[socket.socket, str]:
    """A unix socket that only this user can open; a loopback port where the home's path is too long for one."""
    path = folder(home) / "plane.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        return listener, f"127.0.0.1:{listener.getsockname()[1]}"
    path.unlink(missing_ok=True)  # of a plane that was killed; the lock says that none lives
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener, f"unix:{path}"


def publish_address(home: Home, address: str) -> None:
    """Tell the gateway where the plane is, at once; the routes that it has stay."""
    import msgspec

    from .gateway.table import Table, read_table, write_table

    path = folder(home) / "routes.json"
    table = Table()
    with contextlib.suppress(FileNotFoundError):
        table = read_table(path)
    write_table(path, msgspec.structs.replace(table, plane=address))


def _greet(settings: Settings, key: str | None, say: Callable[[str], None]) -> None:
    say(f"Lepton {__version__}: {settings.url}/api/v2/workspaces/default")
    if key:
        say(f"Admin key (kept in {settings.home.root / 'admin.key'}): {key}")
    else:
        say(f"The admin's key is in {settings.home.root / 'admin.key'}.")
    if sandbox.bubblewrap() is None:
        say(f"Note: {sandbox.MISSING}")


def _runner() -> Callable:
    if sys.platform == "win32":
        return asyncio.run
    import uvloop

    return uvloop.run
