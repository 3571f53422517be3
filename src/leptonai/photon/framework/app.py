"""The ASGI app of a photon: its handlers, the built-in routes, and what every request passes: token, CORS, body limits.

Plain ASGI on purpose: a request to a handler costs one dict look-up, one decode, the call and one encode.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ...base.errors import did_you_mean
from .. import metrics
from ..http import Bodies, HTTPError, Receive, Request, Scope, Send
from .docs import page
from .execution import Late, Slots
from .handler import handlers_of
from .mounts import Mounts
from .openapi import document
from .results import Plain, failure, json_answer
from .route import Numbers, Route
from .templates import Template

if TYPE_CHECKING:
    from .photon import Photon

_OPEN = ("/healthz", "/livez")
_PAGES = ("/docs", "/redoc", "/ledoc")
BUILT_IN = ("/healthz", "/livez", "/metrics", "/openapi.json", *_PAGES, "/favicon.ico", "/queue-length")
HELD_BYTES = 1 << 30
MAX_HEADERS = 256
_HEALTHY = json_answer({"status": "ok"})


class App:
    """The photon's routes. `start` (or ASGI's lifespan) runs `init` and the mounts' own start; `stop` ends them."""

    def __init__(self, photon: Photon):
        self.photon = photon
        self.slots = Slots(photon.handler_max_concurrency)
        self.token = os.environ.get("LEPTON_LOCAL_DEPLOYMENT_TOKEN") or None
        self.origins = [one.strip() for one in os.environ.get("LEPTON_ALLOW_ORIGINS", "*").split(",") if one.strip()]
        self.bodies = Bodies(HELD_BYTES, photon.max_body_bytes)
        self.in_flight = 0
        self.numbers: dict[tuple[str, str], Numbers] = {}
        self.routes: dict[tuple[str, str], Route] = {}
        self.templates: list[Template] = []
        self.mounts = Mounts(self)
        for name, options in handlers_of(type(photon)).items():
            if options.mount:
                self.mounts.promise(name, options)
            elif options.use_raw_args or self.mounts.needs_fastapi(name, options):
                self.mounts.add_raw(name, options)
            else:
                self._add(Route(photon, name, options, self.slots))
        self.started = False
        self._document: dict[str, Any] | None = None

    def _add(self, route: Route) -> None:
        if "{" in route.path:
            self.templates.append(Template(route))
        else:
            self.routes[route.method, route.path] = route

    async def start(self) -> None:
        """Run `init` and open what is mounted; later calls do nothing."""
        if self.started:
            return
        import asyncio

        await asyncio.to_thread(self.photon._call_init_once)
        await self.mounts.open()
        self.started = True

    async def stop(self) -> None:
        await self.mounts.close()
        for route in self.routes.values():
            if route.options.isolate:
                route.isolated.close()

    def mount(self, path: str, app: Any, name: str | None = None) -> None:
        """What a mounting handler may call on its `app`."""
        self.mounts.add(path, app)

    def openapi(self) -> dict[str, Any]:
        if self._document is None:
            found = document(self.photon, self.all_routes())
            self.mounts.describe(found)
            if not self.started:
                return found
            self._document = found
        return self._document

    def all_routes(self) -> list[Route]:
        return [*self.routes.values(), *(one.route for one in self.templates)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._other(scope, receive, send)
        started = time.perf_counter()
        self.in_flight += 1
        status, label = 500, "other"
        try:
            method = scope["method"]
            path: str = scope["path"]
            if prefix := scope.get("root_path", ""):
                path = path.removeprefix(prefix) or "/"
            route = self.routes.get((method, path))
            if len(scope["headers"]) > MAX_HEADERS:
                answer: Any = json_answer(
                    {"error": f"the request has too many headers: expected at most {MAX_HEADERS}"}, 431
                )
            elif self.token is not None and method != "OPTIONS" and path not in _OPEN and not self._may(scope):
                answer = json_answer({"detail": "Invalid or expired token"}, 403)
            elif route is not None:
                label = path
                answer = await self._handled(route, scope, receive, {})
            else:
                label, answer = await self._elsewhere(method, path, scope, receive, send)
            if type(answer) is int:  # a mounted app has answered
                status = answer
                return
            status = await self._send(answer, scope, receive, send)
        except ConnectionResetError:
            status = 499
        finally:
            self.in_flight -= 1
            numbers = self.numbers.get((scope["method"], label))
            if numbers is None:
                numbers = self.numbers[scope["method"], label] = Numbers()
            numbers.add(status, time.perf_counter() - started)

    async def _handled(self, route: Route, scope: Scope, receive: Receive, path: dict[str, str]) -> Any:
        size = 0
        try:
            body, query = b"", {}
            if route.method == "POST":
                body = await self.bodies.read(Request(scope, receive))
                size = len(body)
            else:
                query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
            if not self.started:
                await self.start()
            return await route.call(body, query, path, receive)
        except Late as late:
            return json_answer({"error": str(late)}, 504)
        except ConnectionResetError:
            raise
        except HTTPError as error:
            return failure(error)
        except Exception as error:
            return failure(error)
        finally:
            if size:
                self.bodies.release(size)

    async def _elsewhere(self, method: str, path: str, scope: Scope, receive: Receive, send: Send) -> tuple[str, Any]:
        """Templated, built-in and mounted routes, in this order; else the answer for what there is not."""
        if method == "OPTIONS" and _header(scope, b"access-control-request-method"):
            return "other", self._preflight(scope)
        for template in self.templates:
            if template.route.method == method and (found := template.match(path)) is not None:
                return template.route.path, await self._handled(template.route, scope, receive, found)
        if method in ("GET", "HEAD") and path in BUILT_IN:
            return path, await self._built_in(path)
        if not self.started:
            await self.start()
        if (mounted := self.mounts.find(path, method)) is not None:
            return self.mounts.label(path), await self._mounted(mounted, scope, receive, send)
        return "other", self._missing(method, path)

    async def _mounted(self, app: Any, scope: Scope, receive: Receive, send: Send) -> Any:
        """The status that the app answered with, or the answer for what it raised instead."""
        status, passed_on = 0, self._with_cors(scope, send)

        async def watched(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await passed_on(message)

        try:
            await app(scope, receive, watched)
        except Exception as error:
            if status or not hasattr(error, "status_code"):
                raise
            missing = error.status_code == 404  # type: ignore[attr-defined]
            return json_answer({"message": "Not Found"}, 404) if missing else failure(error)
        return status

    async def _built_in(self, path: str) -> Any:
        if path in _OPEN:
            return _HEALTHY
        if path == "/metrics":
            return Plain(200, self._measured().encode(), metrics.CONTENT_TYPE.encode())
        if path == "/queue-length":
            return json_answer(self.in_flight - 1)
        if path == "/openapi.json":
            if not self.started:
                await self.start()
            return json_answer(self.openapi())
        if path == "/favicon.ico":
            return Plain(200, _ICON, b"image/svg+xml")
        return page()

    def _missing(self, method: str, path: str) -> Plain:
        allowed = [m for m, p in self.routes if p == path]
        if allowed:
            allow = ", ".join(allowed)
            return json_answer(
                {"error": f"{path} does not take {method}: expected {allow}"}, 405, ((b"allow", allow.encode()),)
            )
        if path == "/static" or path.startswith("/static/"):
            return json_answer({"message": "Not Found"}, 404)
        known = did_you_mean(path, [route.path for route in self.all_routes()])
        # A browser is led to the documentation, as before; whoever reads the body is told.
        return json_answer({"error": f"there is no route {path}. {known}"}, 307, ((b"location", b"/ledoc"),))

    def _may(self, scope: Scope) -> bool:
        kind, _, given = (_header(scope, b"authorization") or b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), (self.token or "").encode())

    def _allowed(self, origin: bytes) -> bytes | None:
        if "*" in self.origins:
            return b"*"
        return origin if origin.decode("latin-1") in self.origins else None

    def _preflight(self, scope: Scope) -> Plain:
        allowed = self._allowed(_header(scope, b"origin") or b"")
        if allowed is None:
            return json_answer({"error": "this origin is not allowed"}, 400)
        asked = _header(scope, b"access-control-request-headers") or b"*"
        headers = ((b"access-control-allow-methods", b"GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"), (b"access-control-allow-headers", asked),
                   (b"access-control-max-age", b"600"))  # fmt: skip
        return Plain(200, b"OK", b"text/plain; charset=utf-8", headers)  # the origin's header comes with every answer

    async def _send(self, answer: Any, scope: Scope, receive: Receive, send: Send) -> int:
        origin = _header(scope, b"origin")
        if origin is not None:
            send = self._with_cors(scope, send)
        if type(answer) is Plain:
            await send(answer.head)
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
            return answer.status
        with contextlib.suppress(ConnectionResetError):
            await answer(scope, receive, send)
        return answer.status_code

    def _with_cors(self, scope: Scope, send: Send) -> Send:
        """`send` that adds who may read the answer. Credentials are never allowed together with `*`."""
        origin = _header(scope, b"origin")
        allowed = self._allowed(origin) if origin is not None else None
        if allowed is None:
            return send

        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    pair for pair in message.get("headers", ()) if pair[0].lower() != b"access-control-allow-origin"
                ]
                extra = [(b"access-control-allow-origin", allowed)] + (
                    [(b"vary", b"origin")] if allowed != b"*" else []
                )
                message = {**message, "headers": [*headers, *extra]}
            await send(message)

        return with_header

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        path = scope["path"]
        mounted = self.mounts.find(path, "GET") if self.token is None or self._may(scope) else None
        if mounted is not None:
            return await mounted(scope, receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _measured(self) -> str:
        """The numbers under the names that the official server's instrumentation gives them."""
        requests = metrics.Counter(
            "http_requests_total", "Answers by route, method and status.", ("handler", "method", "status")
        )
        seconds = metrics.Histogram(
            "http_request_duration_seconds", "Time to the answer.", metrics.LATENCY_BUCKETS, ("handler", "method")
        )
        for (method, path), numbers in self.numbers.items():
            for status, count in numbers.statuses.items():
                requests.values[path, method, str(status)] = count
            seconds.counts[path, method], seconds.sums[path, method] = numbers.buckets, numbers.total_s
        flight = metrics.Counter("http_requests_in_flight", "Requests being answered now.", kind="gauge")
        slots = metrics.Counter("photon_handlers_running", "Handlers whose work has not ended.", kind="gauge")
        flight.set(self.in_flight)
        slots.set(self.slots.in_use)
        lines = []
        for family in (requests, seconds, flight, slots):
            lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}", *family.lines()]
        return "\n".join(lines) + "\n"


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#2a6fdb"/>'
    b'<circle cx="8" cy="8" r="3" fill="#fff"/></svg>'
)
