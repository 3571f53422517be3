"""`@Photon.handler`: what a method says about the route it becomes. Owns the options, checked once, at definition."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...base.errors import did_you_mean

MARK = "__photon_handler__"
RAW = "__photon_function__"
_FORBIDDEN = ("request", "cancel_on_connect_interval", "callback")
_RATE = re.compile(r"\s*(\d+)\s*/\s*(second|minute|hour|day)\s*\Z")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True)
class Options:
    """`path` without its leading slash (None: the function's name). Seconds: `max_wait_time`, `cancel_on_disconnect`, `timeout`."""

    path: str | None = None
    method: str = "POST"
    example: Any = None
    examples: Any = None
    max_batch_size: int | None = None
    max_wait_time: float | None = None
    mount: bool = False
    use_router_if_possible: bool = True
    use_raw_args: bool = False
    cancel_on_disconnect: float | None = None
    include_in_schema: bool = True
    rate_limit: str | None = None
    timeout: float | None = None
    """Seconds for this handler; None: the class's `handler_timeout`."""
    isolate: bool = False
    """Run in a process of its own, which a time-out kills: for synchronous work that no exception can stop."""

    def __post_init__(self) -> None:
        if self.method not in ("GET", "POST"):
            raise ValueError(f"method must be GET or POST, not {self.method!r}")
        if self.use_raw_args and self.method != "POST":
            raise ValueError("use_raw_args is for POST handlers only")
        if self.use_raw_args and self.cancel_on_disconnect is not None:
            raise ValueError("cancel_on_disconnect cannot be used with use_raw_args")
        if (self.max_batch_size is None) != (self.max_wait_time is None):
            raise ValueError("batching needs both max_batch_size and max_wait_time")
        if self.batched and (self.max_batch_size < 2 or self.max_wait_time <= 0):  # type: ignore[operator]
            raise ValueError("max_batch_size must be above 1 and max_wait_time above 0 seconds")
        if self.mount and self.batched:
            raise ValueError("a mounted app cannot be batched")
        if self.isolate and (self.mount or self.batched or self.use_raw_args):
            raise ValueError("isolate is for plain handlers: not with mount, batching or use_raw_args")
        if self.rate_limit is not None:
            parse_rate(self.rate_limit)

    @property
    def batched(self) -> bool:
        return self.max_batch_size is not None


def parse_rate(text: str) -> tuple[int, int]:
    """`"10/minute"` → (10, 60): how many, in how many seconds. Raises ValueError."""
    match = _RATE.match(text)
    if not match or int(match[1]) < 1:
        raise ValueError(f"rate_limit must be like '10/second', '100/minute', '5/hour' or '1000/day', not {text!r}")
    return int(match[1]), _SECONDS[match[2]]


def handler(path: str | Callable | None = None, example: Any = None, **options: Any) -> Any:
    """Make a method of a Photon an HTTP route: `@Photon.handler`, `@Photon.handler("a/b", method="GET", …)`; see docs/photon.md.

    Raises ValueError for options that contradict each other. Options that there are not are named in a warning.
    """
    if callable(path):
        return handler()(path)
    for name in _FORBIDDEN:
        if name in options:
            raise ValueError(f"{name!r} may not be given to a handler")
    known = Options.__dataclass_fields__
    for name in [name for name in options if name not in known]:
        warnings.warn(f"the handler option {name!r} means nothing. {did_you_mean(name, known)}", stacklevel=2)
        del options[name]
    if "method" in options:
        options["method"] = str(options["method"]).upper()
    chosen = Options(path=None if path is None else str(path).strip("/"), example=example, **options)

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            self._call_init_once()
            return function(self, *args, **kwargs)

        wrapped = _as_async(called, function) if inspect.iscoroutinefunction(function) else called
        setattr(wrapped, MARK, chosen)
        setattr(wrapped, RAW, function)
        return wrapped

    return decorate


def _as_async(called: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    async def called_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await called(self, *args, **kwargs)

    return called_async


def handlers_of(photon_class: type) -> dict[str, Options]:
    """Method name → options; base classes first. An override keeps the route of its base unless it is decorated again.

    Raises ValueError where two methods of one class claim one route."""
    found: dict[str, Options] = {}
    for base in reversed(photon_class.__mro__):
        own: dict[tuple[str, str], str] = {}
        for name, value in vars(base).items():
            options = getattr(value, MARK, None)
            if options is None:
                if name in found and value is None:
                    del found[name]
                continue
            route = (options.method, route_path(name, options))
            if route in own:
                raise ValueError(f"{base.__name__}.{own[route]} and .{name} are both {route[0]} {route[1]}")
            own[route] = name
            for other in [o for o, had in found.items() if o != name and (had.method, route_path(o, had)) == route]:
                del found[other]
            found[name] = options
    return found


def route_path(name: str, options: Options) -> str:
    return "/" + (name if options.path is None else options.path)


def plain_function(photon_class: type, name: str) -> Callable:
    """The method as written, without the wrapper that runs `init` first: a server has done that."""
    function = getattr(photon_class, name)
    return getattr(function, RAW, function)
