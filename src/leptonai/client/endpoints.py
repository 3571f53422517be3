"""A service's routes as methods, from its OpenAPI document: `client.a.b(x=1)` is POST /a/b. Imports nothing but `base`."""

from __future__ import annotations

import base64
import keyword
from collections.abc import Callable
from typing import Any

from ..base.errors import InvalidInput, did_you_mean

_METHODS = ("post", "get", "put", "delete", "patch")


class Endpoint:
    """One path. Called, it is POST where there is one; `.get`, `.post`, … where it has several methods."""

    def __init__(self, send: Callable[..., Any], path: str, item: dict[str, Any]):
        self._send, self.path = send, path
        self.operations = {method: item[method] for method in _METHODS if method in item}
        default = next(iter(self.operations), "post")
        self.__doc__ = _doc(path, self.operations)
        self.default = default

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        return self._call(self.default, *args, **arguments)

    def _call(self, method: str, *args: Any, **arguments: Any) -> Any:
        if args:
            raise InvalidInput(f"{self.path} takes its arguments by name", received=args[0], fix="Write name=value.")
        path, query = self.path, {}
        for parameter in self.operations.get(method, {}).get("parameters", []):
            name = parameter["name"]
            if parameter["in"] == "path":
                if name not in arguments:
                    raise InvalidInput(f"{self.path} needs {name}")
                from urllib.parse import quote

                path = path.replace(f"{{{name}}}", quote(str(arguments.pop(name)), safe=""))
            elif parameter["in"] == "query" and name in arguments:
                query[name] = arguments.pop(name)
        if method == "get":
            return self._send("GET", path, params=query | arguments)
        return self._send(
            method.upper(), path, params=query, body={key: sendable(value) for key, value in arguments.items()}
        )

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS and name in self.operations:
            method = Endpoint(self._send, self.path, {name: self.operations[name]})
            return method
        raise AttributeError(f"{self.path} has no {name!r}: it takes {', '.join(self.operations)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.operations]

    def __repr__(self) -> str:
        return f"<{'/'.join(self.operations).upper()} {self.path}>"


class Tree:
    """Paths below one prefix: an attribute per next part; itself callable where the prefix is a path too."""

    def __init__(self, prefix: str = ""):
        self._prefix, self._children, self._endpoint = prefix, {}, None

    def _put(self, parts: list[str], endpoint: Endpoint) -> None:
        if not parts:
            self._endpoint, self.__doc__ = endpoint, endpoint.__doc__
            return
        child = self._children.setdefault(attribute_of(parts[0]), Tree(f"{self._prefix}/{parts[0]}"))
        child._put(parts[1:], endpoint)

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        if self._endpoint is None:
            raise InvalidInput(
                f"{self._prefix or '/'} is no path of the service", fix=f"Below it is: {', '.join(dir(self))}."
            )
        return self._endpoint(*args, **arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._children:
            return self._children[name]
        if self._endpoint is not None and name in _METHODS:
            return getattr(self._endpoint, name)
        raise AttributeError(f"the service has no {self._prefix}/{name}. {did_you_mean(name, self._children)}")

    def __dir__(self) -> list[str]:
        own = (
            list(self._endpoint.operations) if self._endpoint is not None and len(self._endpoint.operations) > 1 else []
        )
        return sorted([*self._children, *own])

    def __repr__(self) -> str:
        return f"<{self._prefix or '/'}: {', '.join(dir(self)) or self._endpoint}>"


def tree_of(document: dict[str, Any], send: Callable[..., Any]) -> Tree:
    root = Tree()
    for path, item in document.get("paths", {}).items():
        parts = [part for part in path.split("/") if part and not part.startswith("{")]
        root._put(parts, Endpoint(send, path, item))
    return root


def attribute_of(part: str) -> str:
    """`text-to-image` → `text_to_image`, `class` → `class_`."""
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in part)
    return f"{name}_" if keyword.iskeyword(name) else name


def sendable(value: Any) -> Any:
    """Files and bytes as the text that a photon's File reads."""
    if hasattr(value, "read"):
        value = value.read()
    if hasattr(value, "get_content"):
        value = value.get_content()
    return "encoded:" + base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _doc(path: str, operations: dict[str, Any]) -> str:
    lines = []
    for method, one in operations.items():
        lines.append(f"{method.upper()} {path}: {one.get('summary', '')}")
        if one.get("description"):
            lines.append(one["description"])
        lines += [
            f"  {p['name']} ({p.get('in')}{', required' if p.get('required') else ''})"
            for p in one.get("parameters", [])
        ]
        media = next(iter(one.get("requestBody", {}).get("content", {}).values()), {})
        if media.get("example") is not None:
            lines.append(f"  example: {media['example']}")
    return "\n".join(lines)
