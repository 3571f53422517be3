"""The ASGI app of a service: its routes, and the guards that every request passes before one. Owns no state but the counts of bodies.

Order: host → token → cross-site → route. All guards look at exact, decoded paths, and a path that is no route is a 404.
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
from .batching import HIGH, LOW, NORMAL
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
    media_type,
)
from .page import page
from .protocols import oip, streams
from .protocols.arrays import ARROW, NPY, read_arrow, read_npy, write_arrow, write_npy
from .service import Predicted, Service, Terms

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
        if scope["type"] == "websocket":
            return await streams.websocket(self, scope, receive, send)
        started = time.perf_counter()
        request = Request(scope, receive)
        route = self._label(request.path)
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

    @staticmethod
    def _label(path: str) -> str:
        if path in openapi.ROUTES:
            return path
        found = oip.route_of(path) if path.startswith("/v2") else None
        return found[0] if found else "other"

    async def _answer(self, request: Request) -> Answer:
        """An answer for any request: errors are sentences, and a fault of ours is a 500 whose details stay in our log."""
        try:
            self.check(request)
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

    def check(self, request: Request) -> None:
        """What every request passes; raise what is to be answered instead."""
        self._check_host(request)
        self._check_token(request)
        self._check_origin(request)

    async def _route(self, request: Request) -> Answer:
        if request.path == "/v2" or request.path.startswith("/v2/"):
            return await oip.answer(self.service, request, self.bodies, terms_of(request))
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
                return Answer(self.service.measured().encode(), content_type=metrics.CONTENT_TYPE)
            case "/openapi.json":
                return Answer(self._document())
            case "/model":
                return json_answer(self.service.describe())
            case _:
                return page()

    async def _with_body(self, request: Request) -> Answer:
        kind = media_type(request)
        if request.path == "/predict" and kind in (NPY, ARROW):
            return await self._predict_arrays(request, kind)
        check_json(request)
        body = await self.bodies.read(request)
        try:
            value = decode_json(body)
            match request.path:
                case "/predict":
                    rows, single = rows_of(value)
                    terms = terms_of(request)
                    if streams.EVENTS in (request.header(b"accept") or ""):
                        return streams.events(self.service, rows, terms)
                    return answer_of(
                        await self.service.predict(
                            rows, single=single, terms=terms, text=b"[%b]" % body if single else None
                        )
                    )
                case "/feedback":
                    return json_answer(await self.service.give_feedback(value))
                case _:
                    return json_answer(await self.service.swap(ref_of(value)))
        finally:
            self.bodies.release(len(body))

    async def _predict_arrays(self, request: Request, kind: str) -> Answer:
        """A body of arrays, answered in kind unless JSON is asked for."""
        terms, accept = terms_of(request), request.header(b"accept") or ""
        body = await self.bodies.read(request)
        try:
            signature = self.service.current.codec.signature
            tensors = read_npy(body, signature) if kind == NPY else read_arrow(body, signature)
            predicted = await self.service.infer(tensors, terms=terms)
        finally:
            self.bodies.release(len(body))
        outputs, request_id, ref = (predicted.answer[key] for key in ("outputs", "request_id", "model"))
        if "application/json" in accept:
            codec = predicted.done.served.codec
            count = len(next(iter(outputs.values()))) if codec.signature.batched else 1
            answer = json_answer(
                {"request_id": request_id, "model": ref, "predictions": codec.predictions_of(outputs, count)}
            )
        elif NPY in accept or (kind == NPY and ARROW not in accept):
            answer = write_npy(outputs, accept)
        else:
            answer = write_arrow(outputs, request_id, ref)
        answer.headers["x-request-id"] = request_id
        answer.timings = predicted.timings
        return answer

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


def answer_of(predicted: Predicted) -> Answer:
    answer = json_answer(predicted.answer)
    answer.timings = predicted.timings
    return answer


TIMEOUT, PRIORITY = b"x-request-timeout-ms", b"x-request-priority"
_PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}
_PLAIN = Terms()


def terms_of(request: Request) -> Terms:
    """What the headers ask for: `x-request-timeout-ms: 250`, `x-request-priority: high`."""
    timeout, priority = request.header(TIMEOUT), request.header(PRIORITY)
    if timeout is None and priority is None:
        return _PLAIN
    try:
        timeout_s = None if timeout is None else float(timeout) / 1000
    except ValueError:
        timeout_s = 0.0
    if timeout_s is not None and not 0 < timeout_s < 1e6:
        raise InvalidInput(
            "this is no deadline", received=f"{TIMEOUT.decode()}: {timeout}", expected="milliseconds above 0"
        )
    if priority is not None and priority.lower() not in _PRIORITIES:
        raise InvalidInput("this is no priority", received=priority, expected=", ".join(_PRIORITIES))
    return Terms(timeout_s, _PRIORITIES[priority.lower()] if priority else NORMAL)


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


_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", answer.content_type.encode("latin-1")), *_ALWAYS]
    if answer.stream is None:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.timings is not None:
        headers.append((b"server-timing", _server_timing(answer.timings)))
    headers += [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.stream is not None:
        async for part in answer.stream:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": answer.body})


def _server_timing(timings: dict[str, float]) -> bytes:
    """`queue;dur=0.21, model;dur=1.90, …` in milliseconds, as browsers' developer tools and tracers read it."""
    return ", ".join(f"{part};dur={1000 * seconds:.2f}" for part, seconds in timings.items()).encode()
