"""Apps inside a photon, and handlers whose arguments FastAPI reads."""

import contextlib

from fastapi import FastAPI, File, Form, Request, UploadFile
from flask import Flask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from leptonai.photon import Photon, StaticFiles
from leptonai.photon.framework.proxy import asgi_proxy

LIFE = []


class Inner(Photon):
    def init(self):
        self.word = "inner"

    @Photon.handler
    def say(self):
        return self.word


class Outer(Photon):
    @Photon.handler(mount=True)
    def inner(self):
        return Inner()

    @Photon.handler("fast", mount=True)
    def fastapi(self):
        app = FastAPI()

        @app.get("/hello")
        def hello(name: str):
            return {"hello": name}

        return app

    @Photon.handler(mount=True)
    def starlette(self):
        @contextlib.asynccontextmanager
        async def life(app):
            LIFE.append("up")
            yield
            LIFE.append("down")

        return Starlette(routes=[Route("/x", lambda request: PlainTextResponse("x"))], lifespan=life)

    @Photon.handler("flask", mount=True)
    def flask(self):
        app = Flask("inner")
        app.route("/f")(lambda: "from flask")
        return app

    @Photon.handler(mount=True)
    def by_parent(self, app):
        app.mount("/given", PlainTextResponse("given"))

    @Photon.handler("files/deep", mount=True)
    def files(self):
        from pathlib import Path

        return StaticFiles(directory=Path(__file__).parent)

    @Photon.handler("upload", use_raw_args=True)
    async def upload(self, request: Request, file: UploadFile = File(), note: str = Form("none")):
        """Takes a form."""
        return {"size": len(await file.read()), "note": note, "path": request.url.path}

    @Photon.handler("raw", use_raw_args=True)
    def raw(self, item: dict):
        return item


def test_every_kind_of_app(serve):
    client = serve(Outer)
    assert client.post("/inner/say").json() == "inner"
    assert client.get("/inner/healthz").json() == {"status": "ok"}
    assert client.get("/fast/hello", params={"name": "you"}).json() == {"hello": "you"}
    assert client.get("/starlette/x").text == "x"
    assert client.get("/flask/f").text == "from flask"
    assert client.get("/given").text == "given"
    assert client.get("/files/deep/conftest.py").status_code == 200
    assert client.get("/files/deep/nothing").status_code == 404
    assert client.get("/filesx").status_code == 307
    assert LIFE == ["up"]
    document = client.get("/openapi.json").json()
    assert {"/fast/hello", "/inner/say", "/upload", "/raw"} <= set(document["paths"])
    assert 'handler="/flask"' in client.get("/metrics").text


def test_fastapi_reads_raw_arguments(serve):
    client = serve(Outer)
    answer = client.post("/upload", files={"file": b"12345"}, data={"note": "five"})
    assert answer.json() == {"size": 5, "note": "five", "path": "/upload"}
    assert client.post("/upload").status_code == 422
    assert client.post("/raw", json={"a": 1}).json() == {"a": 1}


def test_a_proxy_streams_what_is_behind(serve):
    behind = serve(Inner)

    class Front(Photon):
        @Photon.handler(mount=True)
        def api(self):
            return asgi_proxy(str(behind.base_url))

    client = serve(Front)
    assert client.post("/api/say").json() == "inner"
    assert client.post("/api/nothing").status_code == 307


def test_what_cannot_be_mounted_is_said():
    import pytest

    from leptonai.base.errors import InvalidInput
    from leptonai.photon.framework.mounts import as_asgi

    with pytest.raises(InvalidInput, match="cannot be mounted"):
        as_asgi(3)
