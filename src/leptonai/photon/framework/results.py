"""From what a handler returns, or raises, to an answer. Keeps nothing."""

from __future__ import annotations

import inspect
import sys
import traceback
from typing import Any

import msgspec

from ...base.errors import LeptonError
from .arguments import Invalid

JSON = b"application/json"


class Plain:
    """An answer whose bytes are all there: `head` and `body` are sent as they are."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, body: bytes, kind: bytes = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()):
        self.status, self.body = status, body
        pairs = [(b"content-length", b"%d" % len(body)), *headers]
        if body or status != 204:
            pairs.insert(0, (b"content-type", kind))
        self.head = {"type": "http.response.start", "status": status, "headers": pairs}


_NOTHING = Plain(204, b"")
_NOTHING.head["headers"] = []
_ENCODER = msgspec.json.Encoder(enc_hook=lambda value: _plain(value))


def json_answer(value: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Plain:
    return Plain(status, _ENCODER.encode(value), headers=headers)


def answer_of(value: Any, response_class: type | None) -> Any:
    """A Plain, or a Starlette response (itself an ASGI app). `response_class`: what the function's annotation says."""
    if value is None:
        return _NOTHING
    kind = type(value)
    if response_class is None and (kind is dict or kind is list):
        return Plain(200, _ENCODER.encode(value))
    if callable(value) and hasattr(value, "status_code"):
        return value
    if response_class is not None:
        return response_class(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return Plain(200, bytes(value), b"application/octet-stream")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        from starlette.responses import StreamingResponse

        return StreamingResponse(value, media_type="text/plain")
    return Plain(200, _ENCODER.encode(value))


def response_class_of(annotation: Any) -> type | None:
    """The annotation if it is a class of responses; None for any other."""
    if not inspect.isclass(annotation) or not hasattr(annotation, "render"):
        return None
    from starlette.responses import Response

    return annotation if issubclass(annotation, Response) and annotation is not Response else None


def failure(error: BaseException) -> Plain:
    """The answer for an error of a handler: `{"error": …}`, or FastAPI's detail list for arguments that do not fit."""
    if isinstance(error, Invalid):
        return json_answer({"detail": error.detail}, 422)
    if isinstance(error, LeptonError):
        headers = tuple((k.encode(), str(v).encode()) for k, v in getattr(error, "headers", {}).items())
        return json_answer(error.to_dict(), error.status, headers)
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and hasattr(error, "detail"):  # HTTPException, of Starlette or of FastAPI
        given = getattr(error, "headers", None) or {}
        return json_answer(
            {"error": error.detail}, status, tuple((k.lower().encode(), v.encode()) for k, v in given.items())
        )
    traceback.print_exception(error, file=sys.stderr)
    return json_answer({"error": str(error)}, 500)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy, torch
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    if isinstance(value, (set, frozenset)) or inspect.isgenerator(value):
        return list(value)
    raise NotImplementedError(
        f"a {type(value).__name__} cannot be written as JSON; return a dict, a list, a pydantic model or a Response"
    )
