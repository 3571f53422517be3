"""For bench/gateway.py: `echo PORT` (a bare ASGI app, with /stream), `fastapi PORT ECHO` (a proxy as people write one, on httpx)."""

from __future__ import annotations

import asyncio
import sys
import time

import uvicorn


async def echo(scope, receive, send) -> None:
    while (await receive()).get("more_body", False):
        pass
    if scope["path"].endswith("/stream"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            sent = b"%r\n" % time.clock_gettime(time.CLOCK_MONOTONIC)
            await send({"type": "http.response.body", "body": sent, "more_body": True})
            await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def fastapi_app(echo_port: str):
    import httpx
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{echo_port}", limits=httpx.Limits(max_connections=64))
    dropped = {"host", "connection", "transfer-encoding"}

    async def proxy(request: Request):
        headers = {key: value for key, value in request.headers.items() if key not in dropped}
        sent = client.build_request(request.method, request.url.path, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)
        kept = {key: value for key, value in answer.headers.items() if key not in dropped}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)

    # Postponed annotations could not name the local Request.
    proxy.__annotations__["request"] = Request
    app.api_route("/{path:path}", methods=["GET", "POST"])(proxy)
    return app


if __name__ == "__main__":
    app = echo if sys.argv[1] == "echo" else fastapi_app(sys.argv[3])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
