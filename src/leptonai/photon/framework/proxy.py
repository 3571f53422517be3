"""`asgi_proxy(url)`: an app that hands every request on to one server, and its answer back as it comes."""

from __future__ import annotations

from typing import Any

_HOP = {
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"te",
    b"trailer",
    b"upgrade",
    b"proxy-authorization",
    b"host",
}


def asgi_proxy(url: str) -> Any:
    """`url`: chosen by the photon, never by a client."""
    import httpx

    # An answer may stream for as long as the photon's caller reads; only connecting is bounded.
    patience = httpx.Timeout(None, connect=10)
    client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=patience, trust_env=False, follow_redirects=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = [(k, v) for k, v in scope["headers"] if k not in _HOP]
        target = httpx.URL(path=path, query=scope["query_string"])
        outgoing = client.build_request(scope["method"], target, headers=headers, content=request.stream())
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.HTTPError:
            await send(
                {"type": "http.response.start", "status": 502, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": b'{"error":"the server behind does not answer"}'})
            return
        try:
            kept = [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in _HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()

    return app
