"""The server process of one service: its checks before it listens, its sockets, its end. Owns `services/<name>/service.json`.

A service name belongs to one process at a time (a lock on its folder), or to the replicas of one endpoint together
(`LEPTON_REPLICA_ID`, which the cloud sets): they share the log, so that feedback may reach another replica than the request did.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import uvicorn

from ..base.errors import Conflict, DiskFull, InvalidInput, Refused
from ..base.files import write_atomic
from ..base.home import Home
from ..base.paths import check_name
from ..base.sockets import is_loopback, listen
from .app import LOOPBACK, App
from .http import MAX_BODY_BYTES
from .protocol import MAX_CONNECTIONS, guarded, websockets_kind
from .recording import Recording
from .served import Placement, Served
from .service import Batching, Service

DRAIN_S = 30


@dataclass(frozen=True)
class State:
    """What `service.json` says while the server answers."""

    name: str
    pid: int
    url: str
    model: str
    started: float
    grpc: str | None = None


def serve(
    ref: str,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    home: Home | None = None,
    ready: Callable[[State], None] = lambda state: None,
    placement: Placement = Placement(),
    batching: Batching = Batching(),
    recording: Recording = Recording(),
    sample: list[dict[str, Any]] | None = None,
    grpc_port: int | None = None,
) -> None:
    """Serve a model until SIGTERM or SIGINT; then finish what is in flight and return.

    `sample`: rows that say what a file's model takes. `grpc_port`: None: no gRPC. `port` 0: a free one. `ready` is called once the socket listens. Raises Refused for a bind to the network without a token.
    """
    home = home or Home.current()
    loopback = is_loopback(host)
    if not loopback and not token:
        raise Refused(
            "a service that others can reach needs a token",
            received=f"--host {host} without --token",
            fix="Set LEPTON_TOKEN (or --token), or bind to 127.0.0.1.",
        )
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise InvalidInput(
            "this cannot be a token", expected="at least 8 ASCII characters without spaces", fix="Choose a longer one."
        )
    # The socket first: a taken port is said at once, before seconds of loading.
    with listen(host, port) as listener:
        served = Served.load(ref, home, placement, sample)
        name = check_name(name or served.ref.partition("@")[0], "service")
        folder = home.services / name
        # Behind the gateway a request comes with the host that its client asked for.
        replica = bool(os.environ.get("LEPTON_REPLICA_ID"))
        with only_process(folder, replica=replica):
            url = f"http://{_in_url(host if loopback else _shown(host))}:{listener.getsockname()[1]}"
            options = {"placement": placement, "batching": batching, "recording": recording}
            grpc = None if grpc_port is None else (host, grpc_port)
            try:
                run = _serve(
                    listener,
                    name,
                    served,
                    home,
                    token,
                    _hosts(host) if loopback and not replica else None,
                    url,
                    ready,
                    options,
                    grpc,
                )
                _runner()(run)
            finally:
                served.close()


async def _serve(
    listener: socket.socket,
    name: str,
    served: Served,
    home: Home,
    token: str | None,
    hosts: tuple[str, ...] | None,
    url: str,
    ready: Callable[[State], None],
    options: dict[str, Any],
    grpc: tuple[str, int] | None,
) -> None:
    path = home.services / name / "service.json"
    state = State(name, os.getpid(), url, served.ref, time.time())

    def announce(ref: str) -> None:
        # Replicas are found through their endpoint; one file could name only one of them.
        if not os.environ.get("LEPTON_REPLICA_ID"):
            write_atomic(path, msgspec.json.encode(replace(state, model=ref)))

    def announce_swap(ref: str) -> None:
        # The swap is done already; on a full disk `lep serve --ls` goes on showing the version before.
        with contextlib.suppress(DiskFull):
            announce(ref)

    service = await asyncio.to_thread(lambda: Service(name, served, home, announce_swap, **options))
    config = uvicorn.Config(
        App(service, token=token, hosts=hosts),
        http=guarded(service.refusal),
        ws=websockets_kind(),
        ws_max_size=MAX_BODY_BYTES,
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal again after its graceful end; by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    calls = None
    try:
        running = asyncio.create_task(server.serve([listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        if server.started:
            if grpc is not None:
                calls, state = await _start_grpc(service, token, grpc, state)
            service.start_tidying()
            announce(served.ref)
            ready(state)
        await running
    finally:
        if calls is not None:
            await calls.stop(DRAIN_S)
        path.unlink(missing_ok=True)
        await asyncio.to_thread(service.close)


async def _start_grpc(service: Service, token: str | None, address: tuple[str, int], state: State) -> tuple[Any, State]:
    from .protocols.grpc import start

    calls, port = await start(service, token, *address)
    return calls, replace(state, grpc=f"{_in_url(_shown(address[0]))}:{port}")


def _runner() -> Callable:
    if sys.platform == "win32":
        return asyncio.run
    import uvloop

    return uvloop.run


@contextmanager
def only_process(folder: Path, *, replica: bool = False):
    """Hold the service's lock (replicas hold it together); raise Conflict if another process serves under this name."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        if not try_lock(file, shared=replica):
            raise Conflict(
                f"a service named {folder.name!r} runs already",
                fix=f"Stop it with `lep serve --stop {folder.name}`, or choose another --name.",
            )
        yield


def try_lock(file: IO, *, shared: bool = False) -> bool:
    """Take the lock if nobody has it; it goes when the file is closed, and so with the process, however that ends."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _hosts(host: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*LOOPBACK, _in_url(host).lower())))


def _in_url(host: str) -> str:
    return f"[{host.strip('[]')}]" if ":" in host else host


def _shown(host: str) -> str:
    """An address that a client on this machine can use for a bind to every interface."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
