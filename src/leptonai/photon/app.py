"""The ASGI app of a service: its routes, and the guards that every request passes before one. Owns no state but the counts of bodies.

Order: host → token → cross-site → route. All guards look at exact, decoded paths, and a path that is not in ROUTES is a 404.
"""

from __future__ import annotations

import base64
import hmac
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from ..base.errors import InvalidInput, LeptonError, Refused, did_you_mean
from . import metrics, openapi
from .http import (
    Answer,
    Bodies,
    HTTPError,
    Receive,
    Request,
    Scope,
    Send,
    check_json,
    decode_json,
    error_answer,
    json_answer,
)
from .page import page
from .service import Service

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class App:
    """`hosts`: names that the Host header may have (None: any, when bound to the network, where a token guards).

    `service` is opened by the server before the first request and closed after the last.
    """

    def __init__(self, service: Service, *, token: str | None, hosts: Sequence[str] | None):
        self.service, self.token, self.hosts = service, token, hosts
        self.bodies = Bodies()
        self.documents: dict[str, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the service does not speak {scope['type']}")  # uvicorn: no websockets, lifespan off
        started = time.perf_counter()
        request = Request(scope, receive)
        route = request.path if request.path in openapi.ROUTES else "other"
        numbers = self.service.metrics
        numbers.in_flight.add(1)
        try:
            answer = await self._answer(request)
        except ConnectionResetError:
            numbers.requests.add(1, route, "499")
            return
        finally:
            numbers.in_flight.add(-1)
        numbers.requests.add(1, route, str(answer.status))
        numbers.latency.observe(time.perf_counter() - started, route)
        await _send(send, answer)

    async def _answer(self, request: Request) -> Answer:
        """An answer for any request: errors are sentences, and a fault of ours is a 500 whose details stay in our log."""
        try:
            self._check_host(request)
            self._check_token(request)
            self._check_origin(request)
            return await self._route(request)
        except LeptonError as error:
            return error_answer(error)
        except TimeoutError:
            return error_answer(
                HTTPError(503, "Timeout", "the model took too long", fix="Send fewer rows, or ask again.")
            )
        except ConnectionResetError:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return json_answer(
                {"error": "The server failed on this request; its log holds the details.", "code": "Internal"}, 500
            )

    async def _route(self, request: Request) -> Answer:
        methods = openapi.ROUTES.get(request.path)
        if methods is None:
            known = did_you_mean(request.path, openapi.ROUTES)
            raise HTTPError(404, "NotFound", "there is no such route", received=request.path, fix=known)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
            raise HTTPError(
                405,
                "MethodNotAllowed",
                f"{request.path} does not take {request.method}",
                expected=allowed,
                headers={"allow": allowed},
            )
        if method != "GET":
            return await self._with_body(request)
        match request.path:
            case "/healthz":
                return json_answer({"status": "ok", "service": self.service.name, "model": self.service.current.ref})
            case "/metrics":
                return Answer(self.service.metrics.render().encode(), content_type=metrics.CONTENT_TYPE)
            case "/openapi.json":
                return Answer(self._document())
            case "/model":
                return json_answer(self.service.describe())
            case _:
                return page()

    async def _with_body(self, request: Request) -> Answer:
        check_json(request)
        body = await self.bodies.read(request)
        try:
            value = decode_json(body)
            match request.path:
                case "/predict":
                    rows, single = rows_of(value)
                    return json_answer(await self.service.predict(rows, single=single))
                case "/feedback":
                    return json_answer(await self.service.give_feedback(value))
                case _:
                    return json_answer(await self.service.swap(ref_of(value)))
        finally:
            self.bodies.release(len(body))

    def _document(self) -> bytes:
        import msgspec

        served = self.service.current
        if served.ref not in self.documents:
            document = openapi.document(self.service.name, served, token=self.token is not None)
            self.documents = {served.ref: msgspec.json.encode(document)}
        return self.documents[served.ref]

    def _check_host(self, request: Request) -> None:
        """A page of another site whose name was made to point at 127.0.0.1 (DNS rebinding) says that name here."""
        host = request.header(b"host") or ""
        if self.hosts is not None and _host_name(host) not in self.hosts:
            raise HTTPError(
                403,
                "WrongHost",
                "this service is not known by that name",
                received=host,
                expected=" or ".join(self.hosts),
            )

    def _check_token(self, request: Request) -> None:
        if self.token is None or request.path == "/healthz":
            return
        kind, _, given = (request.header(b"authorization") or "").partition(" ")
        if kind.lower() == "basic":  # what a browser can send for the page: any user name, the token as password
            try:
                given = base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
            except ValueError:
                given = ""
        elif kind.lower() != "bearer":
            given = ""
        if not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise HTTPError(
                401,
                "Unauthorized",
                "this service needs its token",
                fix="Send the header `Authorization: Bearer TOKEN`.",
                headers={
                    "www-authenticate": 'Bearer realm="lepton", Basic realm="lepton", charset="UTF-8"',
                    "connection": "close",
                },
            )

    def _check_origin(self, request: Request) -> None:
        """A browser says which page a request comes from; what changes or logs something is for our own page only."""
        if request.method in ("GET", "HEAD"):
            return
        origin, site = request.header(b"origin"), request.header(b"sec-fetch-site")
        host = request.header(b"host") or ""
        foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if foreign or site not in (None, "same-origin", "none"):
            raise Refused(
                "a web page of another site may not use this service", received=origin or f"sec-fetch-site: {site}"
            )


def rows_of(value: Any) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a /predict body, and whether it was one row: an object is one row, `{"rows": [row, …]}` is several."""
    if not isinstance(value, dict):
        raise InvalidInput(
            "the body is not an object", received=value, expected='one row {"column": value, …}, or {"rows": [row, …]}'
        )
    rows = value.get("rows")
    if len(value) != 1 or not isinstance(rows, list) or (rows and not isinstance(rows[0], dict)):
        return [value], True
    if not rows:
        raise InvalidInput("there are no rows", received=value, expected='{"rows": [row, …]} with at least one row')
    if len(rows) > openapi.MAX_ROWS:
        raise HTTPError(
            413,
            "TooManyRows",
            "one request holds too many rows",
            received=len(rows),
            expected=f"at most {openapi.MAX_ROWS}",
            fix="Send them in several requests.",
        )
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidInput(f"row {number} is not an object", received=row, expected='{"column": value, …}')
    return rows, False


def ref_of(value: Any) -> str:
    if not isinstance(value, dict) or set(value) != {"ref"} or not isinstance(value["ref"], str):
        raise InvalidInput("this does not name a model", received=value, expected='{"ref": "name@version"}')
    return value["ref"]


def _host_name(host: str) -> str:
    """`[::1]:8080` → `[::1]`, `localhost:8080` → `localhost`."""
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower()


_ALWAYS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


async def _send(send: Send, answer: Answer) -> None:
    headers = {
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        **_ALWAYS,
        **answer.headers,
    }
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": answer.body})
