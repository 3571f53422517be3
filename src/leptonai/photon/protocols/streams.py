"""Predictions as they come: server-sent events for many rows of one request, a WebSocket for many requests of one connection."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ...base.errors import LeptonError
from ..http import MAX_BODY_BYTES, Answer, HTTPError, Receive, Request, Scope, Send, decode_json

if TYPE_CHECKING:
    from ..app import App
    from ..service import Service, Terms

EVENTS = "text/event-stream"
ROWS_PER_EVENT = 32
TOO_BIG, POLICY = 1009, 1008
"""Close codes of RFC 6455."""


def events(service: Service, rows: Sequence[dict[str, Any]], terms: Terms) -> Answer:
    """One event per 32 rows: `{"request_id", "model", "start", "predictions"}`; then `event: done`, or `event: error`."""
    return Answer(b"", content_type=EVENTS, stream=_events(service, rows, terms))


async def _events(service: Service, rows: Sequence[dict[str, Any]], terms: Terms) -> AsyncIterator[bytes]:
    try:
        for start in range(0, len(rows), ROWS_PER_EVENT):
            predicted = await service.predict(rows[start : start + ROWS_PER_EVENT], single=False, terms=terms)
            yield _event("prediction", {**predicted.answer, "start": start})
    except Exception as error:
        yield _event("error", _fault(error))
        return
    yield _event("done", {"rows": len(rows)})


def _event(name: str, value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(value))


async def websocket(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """`/predict` as a conversation: every text message is a body of POST /predict, every answer is one message, in order."""
    from ..app import rows_of, terms_of

    await receive()
    request = Request({**scope, "method": "POST"}, receive)
    try:
        app.check(request)
        if request.path != "/predict":
            raise HTTPError(
                404, "NotFound", "there is no WebSocket at this path", received=request.path, expected="/predict"
            )
        terms = terms_of(request)
    except LeptonError:
        # Before it is accepted, closing is an HTTP 403: a browser shows nothing more in any case.
        return await send({"type": "websocket.close", "code": POLICY})
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        body = text.encode() if text is not None else message.get("bytes") or b""
        if len(body) > MAX_BODY_BYTES:
            return await send({"type": "websocket.close", "code": TOO_BIG})
        try:
            rows, single = rows_of(decode_json(body))
            answer = (await app.service.predict(rows, single=single, terms=terms)).answer
            app.service.metrics.requests.add(1, "/predict (websocket)", "200")
        except Exception as error:
            answer = _fault(error)
            app.service.metrics.requests.add(1, "/predict (websocket)", str(answer["status"]))
        await send({"type": "websocket.send", "text": msgspec.json.encode(answer).decode()})


def _fault(error: Exception) -> dict[str, Any]:
    """An error as its body would be in HTTP, with its status beside it."""
    if isinstance(error, LeptonError):
        return {**error.to_dict(), "status": error.status}
    if isinstance(error, TimeoutError):
        return {"error": "the model took too long", "code": "Timeout", "status": 503}
    traceback.print_exception(error, file=sys.stderr)
    return {"error": "The server failed on this request; its log holds the details.", "code": "Internal", "status": 500}
