"""Small functions that photons' authors use, under the official names."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "check_photon_name":
        from ..photon.framework.photon import check_photon_name

        return check_photon_name
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def asyncfy(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An async function that runs `function` in a thread, so that the event loop goes on."""
    if asyncio.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    async def called(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    return called


def find_available_port(port: int | None = None) -> int:
    """`port`, or the next one that nobody listens on; a free one without `port`. Another process may take it meanwhile."""
    from ..base.errors import Conflict, Unavailable
    from ..base.sockets import listen

    for candidate in [0] if port is None else range(port, 65536):
        try:
            with listen("127.0.0.1", candidate) as found:
                return found.getsockname()[1]
        except Conflict:
            continue
    raise Unavailable("there is no free port", received=port)


@contextlib.contextmanager
def switch_cwd(path: str | Path) -> Iterator[None]:
    """Work in another folder inside the `with`; of the whole process, so not with threads."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def patch(target: Any, name: str, value: Any) -> Iterator[None]:
    """`target.name` is `value` inside the `with`."""
    missing = object()
    before = vars(target).get(name, missing)
    setattr(target, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(target, name)
        else:
            setattr(target, name, before)
