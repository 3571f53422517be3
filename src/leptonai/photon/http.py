"""HTTP on plain ASGI: one request's facts, a body with its limits, an answer. Every answer that is not 2xx is `{"error", "code"}`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..base.errors import InvalidInput, LeptonError, Unavailable, shorten

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 16 * 2**20
BODY_TIMEOUT_S = 30.0
HELD_BYTES = 96 * 2**20
"""Bodies that may be held at once. Decoded JSON is up to ten times as big, so this bounds memory to about 1 GiB."""


class HTTPError(LeptonError):
    """An answer that belongs to HTTP rather than to Lepton."""

    def __init__(self, status: int, code: str, what: str, *, headers: dict[str, str] | None = None, **parts: Any):
        super().__init__(what, **parts)
        self.status, self.code, self.headers = status, code, headers or {}

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "code": self.code}


class Overloaded(Unavailable):
    """Too much is waiting. `retry_after_s`: when it is worth asking again."""

    status = 429

    def __init__(self, what: str, retry_after_s: float):
        super().__init__(what, fix=f"Ask again in {max(1, round(retry_after_s))} s.")
        self.headers = {"retry-after": str(max(1, round(retry_after_s)))}


class DeadlineExceeded(Unavailable):
    """The client's deadline has passed."""

    status = 504

    def __init__(self) -> None:
        super().__init__(
            "the deadline of this request passed before its answer", fix="Give it more time, or send fewer rows."
        )


@dataclass
class Answer:
    """`timings`: seconds by part, for Server-Timing. `stream`: parts that follow `body`, sent as they come."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] | None = None
    stream: AsyncIterator[bytes] | None = None


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(msgspec.json.encode(value), status, headers=headers or {})


def error_answer(error: LeptonError) -> Answer:
    return json_answer(error.to_dict(), error.status, getattr(error, "headers", None))


class Request:
    """One HTTP request. `headers` are lower-case bytes; a header that occurs twice is an error where it matters."""

    def __init__(self, scope: Scope, receive: Receive):
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client = scope.get("client")
        self.pairs: list[tuple[bytes, bytes]] = scope["headers"]
        self.receive = receive
        self.complete = False

    def header(self, name: bytes) -> str | None:
        """The value of a header; raises a 400 if it is there twice, since two readers could then read two values."""
        found = [value for key, value in self.pairs if key == name]
        if len(found) > 1:
            raise HTTPError(400, "DuplicateHeader", f"the header {name.decode()} is there {len(found)} times")
        return found[0].decode("latin-1") if found else None


class Bodies:
    """Reads bodies. Owns the count of bytes held by requests that are not answered yet."""

    def __init__(self, limit_bytes: int = HELD_BYTES, max_body_bytes: int = MAX_BODY_BYTES):
        self.limit_bytes, self.max_body_bytes, self.held_bytes = limit_bytes, max_body_bytes, 0

    async def read(self, request: Request) -> bytes:
        """The whole body, at most `max_body_bytes` in at most BODY_TIMEOUT_S; the caller gives its length to `release`."""
        length = request.header(b"content-length")
        if length and (not length.isascii() or not length.isdigit() or int(length) > self.max_body_bytes):
            raise _too_large(length, self.max_body_bytes)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._read(request)
        except TimeoutError:
            raise HTTPError(
                408,
                "BodyTimeout",
                f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s",
                headers={"connection": "close"},
            ) from None

    async def _read(self, request: Request) -> bytes:
        chunks, size = [], 0
        try:
            while not request.complete:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                chunk = message.get("body", b"")
                request.complete = not message.get("more_body", False)
                if self.held_bytes + len(chunk) > self.limit_bytes:
                    raise Overloaded("the server holds as many request bodies as it may", 1)
                chunks.append(chunk)
                size += len(chunk)
                self.held_bytes += len(chunk)
                if size > self.max_body_bytes:
                    raise _too_large(size, self.max_body_bytes)
        except BaseException:
            self.release(size)
            raise
        return b"".join(chunks)

    def release(self, size: int) -> None:
        self.held_bytes -= size


def _too_large(size: Any, limit: int) -> HTTPError:
    return HTTPError(
        413,
        "BodyTooLarge",
        "the body is too large",
        received=f"{size} bytes",
        expected=f"at most {limit} bytes ({limit >> 20} MiB)",
        fix="Send the rows in several requests.",
        headers={"connection": "close"},
    )


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case; "" if there is none."""
    return (request.header(b"content-type") or "").partition(";")[0].strip().lower()


def check_json(request: Request) -> None:
    """Only JSON is read. It also keeps web pages of other sites out: their forms cannot send this type unasked."""
    content_type = request.header(b"content-type") or ""
    kind, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    encoding = request.header(b"content-encoding")
    if (
        kind.strip().lower() != "application/json"
        or charset not in ("", "utf-8", "utf8")
        or encoding not in (None, "identity")
    ):
        raise HTTPError(
            415,
            "UnsupportedMediaType",
            "this body is not read",
            received=content_type if not encoding else f"content-encoding: {encoding}",
            expected="content-type: application/json, in UTF-8, not compressed",
            headers={"connection": "close"},
        )


def decode_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN, no Infinity, no number beyond float64, no deep nesting."""
    if not body:
        raise InvalidInput("the body is empty", expected="a JSON object")
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise InvalidInput("the JSON is nested too deeply") from None
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:  # bad UTF-8 is one or the other, by msgspec's version
        try:
            body.decode()
        except UnicodeDecodeError as bad:
            raise InvalidInput("the body is not UTF-8", received=f"byte {bad.start}: {body[bad.start]:#04x}") from None
        raise InvalidInput(f"the body cannot be read as JSON: {shorten(str(error), 120)}") from None
