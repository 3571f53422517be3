"""The process of a photon: its socket, its signals, its end. SIGTERM lets traffic drain first; a second one forces; SIGINT ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import uvicorn

from ...base.errors import Refused
from ...base.sockets import is_loopback, listen
from ..protocol import MAX_CONNECTIONS, guarded, websockets_kind

if TYPE_CHECKING:
    from .photon import Photon

KEEP_ALIVE_S = 1800
LOCAL_S, PLATFORM_S = 5.0, 300.0


class Server(uvicorn.Server):
    """uvicorn, with the photon's rules for signals. `grace_s`: how long requests are still taken after SIGTERM."""

    def __init__(self, config: uvicorn.Config, grace_s: float):
        super().__init__(config)
        self.grace_s, self.asked = grace_s, False

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.asked or (sig == signal.SIGINT and self.should_exit):
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGINT:
            self.should_exit = True
        else:
            self.asked = True
            timer = threading.Timer(self.grace_s, self._end)
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        self.should_exit = True


def launch(
    photon: Photon,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    log_level: str | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal. `ready` is called with the URL once requests are answered; else the URL is printed."""
    if not is_loopback(host) and not os.environ.get("LEPTON_LOCAL_DEPLOYMENT_TOKEN"):
        raise Refused(
            "a photon that others can reach needs a token",
            received=f"host {host}",
            fix="Set LEPTON_LOCAL_DEPLOYMENT_TOKEN, or listen on 127.0.0.1.",
        )
    on_platform = bool(os.environ.get("LEPTON_DEPLOYMENT_NAME"))
    ends_s = photon.timeout_graceful_shutdown
    grace_s = photon.incoming_traffic_grace_period
    with listen(host, port) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            photon.app,
            http=guarded(lambda path, headers: None),
            ws=websockets_kind(),
            lifespan="on",
            log_level=log_level or "error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int((PLATFORM_S if on_platform else LOCAL_S) if ends_s is None else ends_s),
            backlog=1024,
        )
        # Both before init: a probe that may kill must see a process that is alive while it loads.
        probe = _liveness(host, photon.health_check_liveness_tcp_port, port)
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        say = ready or (lambda url: print(f"{photon._photon_name} is served on {url}", file=sys.stderr, flush=True))
        try:
            _run(
                Server(config, LOCAL_S if grace_s is None else grace_s), listener, lambda: say(f"http://{shown}:{port}")
            )
        finally:
            if probe is not None:
                probe.shutdown()


def _run(server: Server, listener: Any, ready: Callable[[], None]) -> None:
    import uvloop

    async def run() -> None:
        task = asyncio.create_task(server.serve([listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        if server.started:
            ready()
        await task

    # uvicorn raises the signal again after its end; by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, lambda *_: None)
    try:
        uvloop.run(run())
    except SystemExit as error:
        if error.code and not server.started:
            raise RuntimeError("the photon could not start; the reason is above") from None


class _Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/livez"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}' if found else b'{"message":"Not Found"}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _liveness(host: str, port: int | None, main_port: int) -> ThreadingHTTPServer | None:
    """`/livez` on a port of its own, from a thread of its own: it answers while handlers hold the loop."""
    if port is None or port == main_port:
        return None
    server = ThreadingHTTPServer((host, port), _Alive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
