"""Servers beside ours for bench/serve.py: `echo` (a bare ASGI app: what uvicorn alone can do), `fastapi FOLDER` (the same model)."""

from __future__ import annotations

import sys

import uvicorn

ANSWER = b'{"request_id":"0198c0de5eed0123456789abcdef0123","model":"digits@1","prediction":{"label":7,"score":0.5}}'


async def echo(scope, receive, send) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def fastapi_app(folder: str):
    from typing import Annotated

    from fastapi import FastAPI
    from pydantic import BaseModel, Field

    from leptonai.tasks.model import Model

    model = Model.load(folder)

    class Row(BaseModel):
        image: list[list[Annotated[int, Field(ge=0, le=255)]]]

    app = FastAPI()

    def predict(row: Row):
        return {"prediction": model.predict({"image": row.image})}

    # The annotation is a local class, which a decorated function with postponed annotations could not name.
    predict.__annotations__["row"] = Row
    app.post("/predict")(predict)
    return app


if __name__ == "__main__":
    app = echo if sys.argv[2] == "echo" else fastapi_app(sys.argv[3])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
