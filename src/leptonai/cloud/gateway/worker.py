"""A gateway worker: one process, one event loop, one socket that it shares with the others by SO_REUSEPORT.

It needs the plane for nothing: it reads `routes.json` when that changes, goes on with the last one, and leaves its reports and usage
facts in files. SIGTERM ends it when what is open is answered. Nothing on the loop waits for a disk: what does runs in threads.

    LEPTON_HOME/cloud/{routes.json, traffic/, usage/, gateway/<worker>.json, gateway/limits, gateway/access-<worker>.jsonl}
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from ...base.errors import Conflict, DiskFull, LeptonError, Unavailable
from ...base.files import write_atomic
from ...base.sockets import listen
from .accesslog import AccessLog
from .front import HEAD_S, Front
from .gateway import MAX_CONNECTIONS, Gateway
from .limits import SharedLimits
from .table import read_table
from .tracing import Tracing
from .traffic import report, write_report
from .usage import Spool

log = logging.getLogger("lepton.gateway")

ROUTES_POLL_S = 0.05
REPORT_S = 0.5
SEAL_S, LOOK_S = 1.0, 0.05
DRAIN_S = 30.0
OTHER_FILES = 128
"""Kept for what is no connection: segments, reports, the log, and links that wait in a pool."""


async def serve(
    folder: Path,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int,
    tls: ssl.SSLContext | None = None,
    stop: asyncio.Event,
    ready: Callable[[int], None] = lambda port: None,
    drain_s: float = DRAIN_S,
) -> None:
    """Serve until `stop` is set, then finish what is open. `folder`: LEPTON_HOME/cloud; `name`: this worker's, one process at a time.

    `ready` is called with the port once it listens. Raises Conflict if the port or the name is taken.
    """
    loop = asyncio.get_running_loop()
    listener = listen(host, port, shared=True)
    try:
        spool = Spool(folder / "usage" / name)
    except BlockingIOError:
        listener.close()
        raise Conflict(
            f"a gateway worker {name!r} runs already in {folder}", fix="Stop it first with: lep down."
        ) from None
    (folder / "traffic").mkdir(parents=True, exist_ok=True)
    access_log = AccessLog.from_environment(folder / "gateway", name)
    try:
        tracing = Tracing.from_environment(name)
    except Unavailable as error:  # requests matter more than their traces
        log.error("there are no traces: %s", error)
        tracing = None
    limits = SharedLimits(folder / "gateway" / "limits")
    gateway = Gateway(loop, spool, limits, max_connections(), access_log, tracing)
    routes = _Routes(gateway, folder / "routes.json")
    # A handshake is a part of the head: a client that is slow with it has no longer for it.
    handshake_s = HEAD_S if tls is not None else None
    server = await loop.create_server(
        lambda: Front(gateway), sock=listener, backlog=2048, ssl=tls, ssl_handshake_timeout=handshake_s
    )
    port = listener.getsockname()[1]
    state = folder / "gateway" / f"{name}.json"
    write_atomic(state, json.dumps({"worker": name, "pid": os.getpid(), "host": host, "port": port}))
    works = [routes.follow(), _report(gateway, folder / "traffic", name), _seal(spool)]
    if access_log is not None:
        works.append(_write_log(access_log))
    tasks = [loop.create_task(work) for work in works]
    try:
        ready(port)
        done, _ = await asyncio.wait(
            [*tasks, stopped := loop.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done - {stopped}:
            task.result()  # none of them ends by itself: this raises what went wrong
        server.close()
        await gateway.drain(drain_s)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            (folder / "traffic" / f"{name}.json").unlink(missing_ok=True)
            state.unlink(missing_ok=True)
        spool.close()
        if access_log is not None:
            access_log.write(access_log.take())
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def max_connections() -> int:
    """As many as the system lets this process have files, two for each (client and replica); the soft limit is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = (
        min(hard, 2 * MAX_CONNECTIONS + OTHER_FILES)
        if hard != resource.RLIM_INFINITY
        else 2 * MAX_CONNECTIONS + OTHER_FILES
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(16, (files - OTHER_FILES) // 2)


class _Routes:
    """Follows `routes.json`. A file that cannot be read leaves the routes as they are."""

    def __init__(self, gateway: Gateway, path: Path):
        self.gateway, self.path, self._seen = gateway, path, None
        self.look()

    def look(self) -> None:
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return
        mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if mark == self._seen:
            return
        self._seen = mark
        try:
            self.gateway.apply(read_table(self.path))
        except (LeptonError, ValueError, OSError) as error:
            log.error("the routes stay as they were: %s", error)
        else:
            self.gateway.wake.set()  # a report with the new version lets controllers go on

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(ROUTES_POLL_S)
            self.look()


async def _report(gateway: Gateway, folder: Path, name: str) -> None:
    """Twice a second, and at once when a request waits for a replica or the routes have changed."""
    boot = f"{name}-{os.getpid()}-{gateway.new_request_id().decode()}"
    while True:
        gateway.wake.clear()
        facts = (len(gateway.fronts), gateway.refused, gateway.oldest(), gateway.now())
        with contextlib.suppress(OSError):  # a full disk: the next one may go
            await asyncio.to_thread(write_report, folder, report(name, boot, gateway.routing, *facts))
        await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gateway.wake.wait(), REPORT_S)


async def _seal(spool: Spool) -> None:
    """Each second, and sooner when a segment fills up."""
    while True:
        for _ in range(round(SEAL_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if spool.half_full:
                break
        try:
            rest = spool.rotate(await asyncio.to_thread(spool.prepare))
        except (OSError, DiskFull) as error:
            log.error("usage facts stay in their segment: %s", error)
            continue
        if rest:
            await asyncio.to_thread(rest)


async def _write_log(access_log: AccessLog) -> None:
    while True:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(access_log.write, access_log.take())


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tls = None
    if arguments.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.certificate, arguments.key)
    await serve(
        arguments.folder,
        arguments.name,
        host=arguments.host,
        port=arguments.port,
        tls=tls,
        stop=stop,
        drain_s=arguments.drain,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leptonai.cloud.gateway.worker", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="LEPTON_HOME/cloud")
    parser.add_argument("--name", default="w0")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", help="TLS certificate chain (PEM)")
    parser.add_argument("--key", help="its private key (PEM)")
    parser.add_argument("--drain", type=float, default=DRAIN_S, help="seconds for open requests at the end")
    import uvloop

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(_main(parser.parse_args()))
    except LeptonError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
