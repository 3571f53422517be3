"""`lep serve llm:MODEL`: starts a backend, then the HTTP server, and ends both. Owns the choice of backend."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import InvalidInput, Missing
from ...base.sockets import is_loopback, listen
from ..wire import EngineOptions
from .app import App, Limits
from .models import Served

BACKENDS = ("lepton", "llama.cpp", "openvino", "vllm", "sglang")


@dataclass(frozen=True)
class ServeOptions:
    """engine: what runs; the rest: how it is reached."""

    engine: EngineOptions
    backend: str = "lepton"
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


async def open_backend(options: ServeOptions) -> tuple[Any, Any]:
    """A started backend and the tokenizer of its model. Raises LeptonError."""
    from ..models import resolve_model
    from ..tokenizer import load_tokenizer

    path = resolve_model(options.engine.model)
    if options.backend == "lepton":
        from ..process import EngineProcess

        backend: Any = EngineProcess(options.engine)
    elif options.backend in BACKENDS:
        from ..adapters import open_adapter

        backend = open_adapter(options.backend, path, options.engine)
    else:
        raise InvalidInput("there is no such backend", received=options.backend, expected=", ".join(BACKENDS))
    try:
        tokenizer, _ = await asyncio.gather(asyncio.to_thread(load_tokenizer, path), backend.start())
    except BaseException:
        await backend.stop()
        raise
    return backend, tokenizer


def serve(options: ServeOptions, ready: Callable[[str, Served], None]) -> None:
    """Run until SIGINT or SIGTERM; `ready` is told the URL. Requests in flight are answered first."""
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise Missing(error.name or "uvicorn", "llm") from error
    if not options.api_keys and not is_loopback(options.host):
        raise InvalidInput(
            "everybody who reaches this port could use the model", received=f"--host {options.host}", expected="an API key",
            fix="Give --api-key KEY (or LEPTON_API_KEY), or listen on 127.0.0.1.",
        )  # fmt: skip
    sock = listen(options.host, options.port)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        starting = asyncio.create_task(open_backend(options))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: (stop.set(), starting.cancel()))
        try:
            backend, tokenizer = await starting
        except asyncio.CancelledError:
            return
        try:
            served = Served(options.engine.name or backend.info.name, backend, tokenizer, options.engine.adapters)
            app = App(served, api_keys=options.api_keys, limits=options.limits)
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=10, h11_max_incomplete_event_size=65536,
                server_header=False, date_header=False,
            )  # fmt: skip
            server = uvicorn.Server(config)
            server.capture_signals = no_signals  # ours are set above: both end the engine too
            running = asyncio.create_task(server.serve(sockets=[sock]))
            while not server.started and not running.done():
                await asyncio.sleep(0.005)
            host = f"[{options.host}]" if ":" in options.host else options.host
            ready(f"http://{host}:{sock.getsockname()[1]}", served)
            await asyncio.wait((running, asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await running
        finally:
            await backend.stop()

    try:
        import uvloop

        uvloop.run(main())
    except ModuleNotFoundError:
        asyncio.run(main())


def no_signals():
    import contextlib

    return contextlib.nullcontext()
