"""Apps inside a photon: ASGI and WSGI apps, static files, other photons, Gradio; and handlers that FastAPI reads the arguments of.

Owns which path belongs to which app, and their start and end. The longest path that fits wins.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput, Missing
from .arguments import Invalid, printable
from .execution import Late
from .handler import Options, plain_function, route_path
from .results import answer_of, failure, response_class_of

if TYPE_CHECKING:
    from .app import App


class Mounts:
    def __init__(self, app: App):
        self.app = app
        self.apps: dict[str, Any] = {}
        self.promised: list[tuple[str, Options]] = []
        self.raw: Any = None
        self.raw_paths: list[tuple[str, str]] = []
        self.documents: dict[str, Any] = {}
        self.stack = contextlib.AsyncExitStack()

    def promise(self, name: str, options: Options) -> None:
        """A handler that gives an app; it is asked once, when the photon starts, after `init`."""
        self.promised.append((name, options))

    def add(self, path: str, app: Any) -> None:
        path = "/" + path.strip("/")
        if path in self.apps:
            raise InvalidInput("two apps are mounted at one path", received=path)
        self.apps[path] = app

    async def open(self) -> None:
        for name, options in self.promised:
            function = plain_function(type(self.app.photon), name)
            takes_app = len(inspect.signature(function).parameters) > 1
            found = function(self.app.photon, self.app) if takes_app else function(self.app.photon)
            if inspect.isawaitable(found):
                found = await found
            if found is None or found is self.app:
                continue  # it has called app.mount itself, or Gradio has
            path = route_path(name, options).rstrip("/")
            if (
                options.use_router_if_possible
                and options.include_in_schema
                and callable(getattr(found, "openapi", None))
            ):
                self.documents[path] = found
            self.add(path, as_asgi(found))
        for app in self.apps.values():
            await self._open_one(app)

    async def _open_one(self, app: Any) -> None:
        """A mounted app's own start: Starlette does not run it for apps inside an app."""
        if hasattr(app, "photon") and hasattr(app, "start"):
            await app.start()
            self.stack.push_async_callback(app.stop)
        elif (context := getattr(getattr(app, "router", None), "lifespan_context", None)) is not None:
            await self.stack.enter_async_context(context(app))

    async def close(self) -> None:
        await self.stack.aclose()

    def find(self, path: str, method: str) -> Callable | None:
        """The app for this path, which then sees its own part of the path."""
        if any(method == m and _fits(pattern, path) for m, pattern in self.raw_paths):
            return self.raw
        for prefix in sorted(self.apps, key=len, reverse=True):
            if prefix == "/" or path == prefix or path.startswith(prefix + "/"):
                return functools.partial(_below, self.apps[prefix], "" if prefix == "/" else prefix)
        return None

    def label(self, path: str) -> str:
        """The name of the path in metrics: of bounded number, whatever clients ask for."""
        if any(pattern == path for _, pattern in self.raw_paths):
            return path
        return max(
            (p for p in self.apps if path == p or path.startswith(p.rstrip("/") + "/")), key=len, default="other"
        )

    def describe(self, document: dict[str, Any]) -> None:
        """Add the routes of mounted apps that can say what they have."""
        if self.raw is not None:
            _merge(document, self.raw.openapi(), "")
        for prefix, app in self.documents.items():
            _merge(document, app.openapi(), prefix)

    def needs_fastapi(self, name: str, options: Options) -> bool:
        """Whether the signature uses FastAPI's own markers: `Query(…)`, `Depends(…)`, or takes the Request."""
        if options.batched or options.isolate:
            return False
        function = plain_function(type(self.app.photon), name)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        return any(
            type(p.default).__module__.startswith("fastapi")
            or getattr(p.annotation, "__module__", "").startswith("starlette.")
            for p in parameters
        )

    def add_raw(self, name: str, options: Options) -> None:
        """A handler whose arguments FastAPI reads: files, forms, headers, the Request. Slots and time-out are the photon's."""
        if self.raw is None:
            try:
                from fastapi import FastAPI
                from fastapi.exceptions import RequestValidationError
            except ModuleNotFoundError as error:
                raise Missing("fastapi", "photon") from error
            self.raw = FastAPI(
                title=self.app.photon._photon_name, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
            )
            self.raw.add_exception_handler(RequestValidationError, _unfit)
        function = plain_function(type(self.app.photon), name)
        path = route_path(name, options)
        self.raw.add_api_route(
            path,
            self._as_endpoint(function, options),
            methods=[options.method],
            include_in_schema=options.include_in_schema,
            response_model=None,
            name=name,
            description=inspect.getdoc(function),
        )
        self.raw_paths.append((options.method, path))

    def _as_endpoint(self, function: Callable, options: Options) -> Callable:
        photon, slots = self.app.photon, self.app.slots
        signature = inspect.signature(function, eval_str=True)
        response_class = response_class_of(signature.return_annotation)
        run = slots.run_async if inspect.iscoroutinefunction(function) else slots.run_sync
        timeout_s = float(options.timeout if options.timeout is not None else photon.handler_timeout)

        async def endpoint(**arguments: Any) -> Any:
            from starlette.responses import Response

            try:
                answer = answer_of(await run(functools.partial(function, photon), arguments, timeout_s), response_class)
            except Late as late:
                return _response(failure(_AsHTTP(504, str(late))))
            except Exception as error:
                answer = failure(error)
            return answer if isinstance(answer, Response) else _response(answer)

        parameters = list(signature.parameters.values())[1:]
        endpoint.__signature__ = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
        return endpoint


async def _unfit(request: Any, error: Any) -> Any:
    """FastAPI's own answer fails on a body that is no text."""
    detail = [
        {key: printable(part) for key, part in one.items() if key in ("type", "loc", "msg", "input")}
        for one in error.errors()
    ]
    return _response(failure(Invalid(detail)))


class _AsHTTP(Exception):
    def __init__(self, status_code: int, detail: str):
        self.status_code, self.detail, self.headers = status_code, detail, None


def _response(plain: Any) -> Any:
    from starlette.responses import Response

    headers = {k.decode(): v.decode("latin-1") for k, v in plain.head["headers"]}
    return Response(plain.body, plain.status, headers=headers)


def as_asgi(app: Any) -> Any:
    """What a mounting handler returned, as an ASGI app. Raises InvalidInput for what is none."""
    from .photon import Photon

    if isinstance(app, Photon):
        return app.app
    if type(app).__module__.partition(".")[0] == "gradio":
        from gradio.routes import App as GradioApp  # type: ignore[import-not-found]

        return GradioApp.create_app(app)
    if callable(getattr(app, "wsgi_app", None)):
        return _as_wsgi(app)
    if inspect.isfunction(app) and [*inspect.signature(app).parameters][:2] == ["environ", "start_response"]:
        return _as_wsgi(app)
    if callable(app):
        return app
    raise InvalidInput(
        "this cannot be mounted",
        received=type(app).__name__,
        expected="an ASGI app (FastAPI, Starlette, StaticFiles), a WSGI app (Flask), a Photon or Gradio Blocks",
    )


def _as_wsgi(app: Any) -> Any:
    try:
        from a2wsgi import WSGIMiddleware
    except ModuleNotFoundError as error:
        raise Missing("a2wsgi", "photon") from error
    return WSGIMiddleware(app)


async def _below(app: Any, prefix: str, scope: Any, receive: Any, send: Any) -> None:
    root = scope.get("root_path", "")
    if prefix and scope["path"] == root + prefix:
        scope = {**scope, "path": scope["path"] + "/"}  # the app's own root
    await app({**scope, "root_path": root + prefix, "app_root_path": root}, receive, send)


def _fits(pattern: str, path: str) -> bool:
    if "{" not in pattern:
        return pattern == path
    wanted, given = pattern.split("/"), path.split("/")
    return len(wanted) == len(given) and all(w.startswith("{") or w == g for w, g in zip(wanted, given, strict=True))


def _merge(document: dict[str, Any], other: dict[str, Any], prefix: str) -> None:
    for path, item in other.get("paths", {}).items():
        document["paths"].setdefault(prefix + path, item)
    for kind, components in other.get("components", {}).items():
        document.setdefault("components", {}).setdefault(kind, {}).update(components)
