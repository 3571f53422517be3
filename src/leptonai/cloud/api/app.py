"""The ASGI app: guards, authorisation, one transaction per call, answers. A call that raises has changed nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...base.errors import Conflict, InvalidInput, LeptonError, NotFound, TooMany, Unauthenticated
from ..gateway.metrics import render as render_gateway
from ..gateway.traffic import Traffic
from ..instance import folder
from ..plane import Plane
from ..store import Transaction
from . import objects
from .call import Answer, Call
from .metrics import Metrics
from .routes import ROUTES, Route, find

MAX_BODY_BYTES = 10 << 20
MAX_UPLOAD_BYTES = 64 << 30
PREFIX = ["api", "v2", "workspaces"]
OPEN = ("/healthz", "/metrics")
"""What answers without a credential: says that the plane lives, and counts without names."""
MAX_STREAMS = 256
log = logging.getLogger("lepton.api")


class HttpError(LeptonError):
    def __init__(self, status: int, what: str, **parts: Any):
        super().__init__(what, **parts)
        self.status = status


class _Discard(Exception):
    """Ends a dry run: the answer is known, the transaction is rolled back."""

    def __init__(self, answer: Answer):
        self.answer = answer


class Api:
    def __init__(self, plane: Plane):
        self.plane, self.metrics = plane, Metrics()
        self._threads = anyio.CapacityLimiter(16)
        self._streams = asyncio.Semaphore(MAX_STREAMS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request, began = Request(scope, receive), time.perf_counter()
        request_id = uuid.uuid4().hex
        route: Route | None = None
        try:
            response, route = await self._answer(request, request_id)
        except LeptonError as error:
            response = error_response(error, request_id)
        except ClientDisconnect:
            return
        except Exception as error:
            # The type only: a message or a traceback could hold what a tenant sent.
            log.error(json.dumps({"request_id": request_id, "error": type(error).__name__, "at": _place(error)}))
            response = error_response(
                LeptonError(f"the plane made a mistake; its log has request {request_id}"), request_id
            )
        response.headers["x-request-id"] = request_id
        response.headers["x-content-type-options"] = "nosniff"
        self.metrics.count(
            route.path if route else "", request.method, response.status_code, time.perf_counter() - began
        )
        with contextlib.suppress(ClientDisconnect):
            await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> tuple[Response, Route | None]:
        self._guard(request)
        path = request.url.path
        if path in OPEN and request.method == "GET":
            return await self._open(request), None
        if path.startswith(objects.SIGNED):
            return await self._signed(request, path.removeprefix(objects.SIGNED)), None
        segments = path.split("/")[1:]
        inside = segments[:3] == PREFIX and len(segments) > 3
        workspace = segments[3] if inside else "default"
        route, values = (
            find(request.method, segments[4:], root=False) if inside else find(request.method, segments, root=True)
        )
        actor = await run_in_threadpool(
            self.plane.access.authorise,
            credential(request),
            route.action if route else "workspace.read",
            workspace,
            address=request.client.host if request.client else "",
        )
        if route is None:
            raise _no_route(request, segments[4:] if inside else segments, inside)
        query = request.query_params.multi_items()
        if any("\0" in text for pair in (*query, *values.items()) for text in pair):
            raise InvalidInput("a parameter may not hold a NUL byte")
        call = Call(
            self.plane,
            actor,
            workspace,
            values,
            query,
            b"",
            request_id,
            tx=None,
            method=request.method,  # type: ignore[arg-type]
        )
        if route.upload:
            return await self._upload(request, route, call), route
        call.body = await _body(request)
        return await self._respond(request, route, call), route

    def _guard(self, request: Request) -> None:
        """What no honest client sends: foreign hosts (DNS rebinding), other sites' pages, forms, doubled headers."""
        for name in (b"authorization", b"host", b"content-length", b"idempotency-key"):
            if sum(key == name for key, _ in request.scope["headers"]) > 1:
                raise HttpError(400, f"the header {name.decode()} is there twice")
        host = request.headers.get("host", "")
        if self.plane.hosts is not None and urlsplit(f"//{host}").hostname not in self.plane.hosts:
            raise HttpError(421, "this server is not the host that was asked for", received=host)
        origin = request.headers.get("origin")
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") or (
            origin and urlsplit(origin).netloc != host and origin.rstrip("/") != self.plane.url
        ):
            raise HttpError(403, "pages of other sites may not use this API", received=origin)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("application/x-www-form-urlencoded", "text/plain"):
            raise HttpError(415, "this body is not read", received=kind, expected="application/json")

    async def _signed(self, request: Request, token: str) -> Response:
        """The bytes of an object; the URL is the credential."""
        if request.method not in ("GET", "PUT"):
            raise Unauthenticated("this URL is for another method")
        target = objects.opened(self.plane, token, request.method)
        if request.method == "GET":
            if not target.is_file():
                raise NotFound("there is no such object")
            return FileResponse(
                target, media_type="application/octet-stream", headers={"content-disposition": "attachment"}
            )
        folder = self.plane.folder / "uploads"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder) as source:
            await _receive(request, source)
            await run_in_threadpool(objects.keep, target, Path(source.name))
        return _json({})

    async def _open(self, request: Request) -> Response:
        if request.url.path == "/metrics":
            text = await run_in_threadpool(self._metrics, request)
            return Response(text, media_type="text/plain; version=0.0.4")
        await run_in_threadpool(self.plane.store.position)
        return _json({"status": "ok", "version": self.plane.version})

    def _metrics(self, request: Request) -> str:
        """Counts without names; with a key also those of the workspace's endpoints, and all with a key of an admin of `default`."""
        key, workspace = credential(request), request.query_params.get("workspace", "default")
        show = lambda name: False  # noqa: E731
        if key is not None:
            address = request.client.host if request.client else ""
            actor = self.plane.access.authorise(key, "workspace.read", workspace, address=address)
            operator = workspace == "default" and actor.role == "admin"
            show = lambda name: operator or name == workspace  # noqa: E731
        traffic = Traffic.read(folder(self.plane.home) / "traffic")
        return self.metrics.text(self.plane.store.position()) + render_gateway(traffic, show)

    async def _respond(self, request: Request, route: Route, call: Call) -> Response:
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= 128:
            raise InvalidInput("the idempotency key is out of bounds", expected="1 to 128 characters")
        work = lambda: self._run(route, call, key if route.changes else None)  # noqa: E731
        answer = await anyio.to_thread.run_sync(work, limiter=self._threads)
        if isinstance(answer, Response):
            return answer
        if answer.file is not None:
            return FileResponse(answer.file, headers={"content-disposition": "attachment", **answer.headers})
        if answer.content is not None:
            return Response(answer.content, media_type="application/octet-stream")
        if answer.lines is not None:
            return StreamingResponse(self._stream(answer.lines), media_type="text/plain; charset=utf-8")
        return _json(answer.value, answer.status, answer.headers)

    def _run(self, route: Route, call: Call, key: str | None) -> Answer | Response:
        if not route.changes:
            with self.plane.store.reading(actor=call.actor) as call.tx:
                return _as_answer(route.handler(call))
        try:
            with self.plane.store.transaction(actor=call.actor, request_id=call.request_id) as call.tx:
                if key is not None:
                    return self._once(route, call, key)
                answer = _as_answer(route.handler(call))
                if call.flag("dryrun"):
                    raise _Discard(answer)
                return answer
        except _Discard as dry:
            return dry.answer

    def _once(self, route: Route, call: Call, key: str) -> Response:
        """Answer a repeated call as the first one was answered; the answer is kept in the transaction of the change."""
        asked = json.dumps([call.method, route.path, call.path, call.query]).encode() + call.body
        digest = hashlib.sha256(asked).hexdigest()
        place = f"{call.workspace}/idempotency/{call.actor.name}/{key}"
        _take_turns(call.tx, place)
        before = call.tx.recall(call.workspace, key)
        if before is not None:
            if before.digest != digest:
                raise Conflict("this idempotency key was used for another request", fix="Take a new key.")
            body = self.plane.vault.unseal(before.body, place)
            return Response(body, before.status, media_type="application/json", headers={"idempotent-replayed": "true"})
        answer = _as_answer(route.handler(call))
        body = msgspec.json.encode(answer.value)
        call.tx.remember(call.workspace, key, digest, answer.status, self.plane.vault.seal(body, place))
        return Response(body, answer.status, media_type="application/json", headers=dict(answer.headers))

    async def _stream(self, lines: Any) -> Any:
        if self._streams.locked():
            raise TooMany("too many logs are being followed", fix="Close one.")
        async with self._streams:
            if hasattr(lines, "__aiter__"):
                async for line in lines:
                    yield line.encode()
                return
            limiter = anyio.CapacityLimiter(1)
            while (line := await anyio.to_thread.run_sync(next, lines, None, limiter=limiter)) is not None:
                yield line.encode()

    async def _upload(self, request: Request, route: Route, call: Call) -> Response:
        """The part `file` of a multipart form, or the body itself, goes to disk before the transaction begins."""
        folder = self.plane.folder / "uploads"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder) as target:
            call.upload = Path(target.name)
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                try:
                    async with request.form(max_files=1, max_fields=10, max_part_size=1 << 20) as form:
                        part = form.get("file") or form.get("value")
                        if part is None or isinstance(part, str):
                            raise InvalidInput(
                                "the form has no file", expected="a multipart form with a part `file` or `value`"
                            )
                        call.upload_name = part.filename or ""
                        while chunk := await part.read(1 << 20):
                            await run_in_threadpool(target.write, chunk)
                except MultiPartException as error:
                    raise InvalidInput(f"the form cannot be read: {error.message}") from None
            else:
                await _receive(request, target)
            await run_in_threadpool(target.flush)
            return await self._respond(request, route, call)


def credential(request: Request) -> str | None:
    """The bearer token. Raises Unauthenticated for any other scheme."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or len(token) > 512:
        raise Unauthenticated("this form of credential is not known", fix="Send `Authorization: Bearer KEY`.")
    return token.strip()


async def _receive(request: Request, target: Any) -> None:
    """The body, as it comes, into a file."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_UPLOAD_BYTES:
            raise HttpError(413, "the file is too large", expected=f"at most {MAX_UPLOAD_BYTES} bytes")
        await run_in_threadpool(target.write, chunk)
    await run_in_threadpool(target.flush)


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    try:
        async with asyncio.timeout(60):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise HttpError(413, "the body is too large", expected=f"at most {MAX_BODY_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise HttpError(408, "the body did not arrive in time", expected="within 60 s") from None
    return b"".join(chunks)


def _as_answer(value: Any) -> Answer:
    return value if isinstance(value, Answer) else Answer(value)


def _take_turns(tx: Transaction, name: str) -> None:
    """Calls with the same idempotency key run one after the other. SQLite's writers do so anyway."""
    if tx.connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        tx.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (number,))


def _no_route(request: Request, segments: list[str], inside: bool) -> LeptonError:
    others = sorted({route.method for route in ROUTES if route.root != inside and route.match(segments) is not None})
    if others:
        return HttpError(
            405, "this path does not take that method", received=request.method, expected=" or ".join(others)
        )
    return NotFound(f"there is nothing at {request.url.path}")


def _place(error: Exception) -> str:
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=dict(headers or {}))


def error_response(error: LeptonError, request_id: str) -> Response:
    """In the form that the official client shows: `code` and `message`."""
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, TooMany) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    value = {"code": type(error).__name__, "message": str(error), "request_id": request_id}
    return _json(value, error.status, headers)
