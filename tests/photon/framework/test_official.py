# ruff: noqa: UP006, UP007, UP035, UP045, I001, RUF005
"""Photons as users of the official library write them, unchanged."""

import base64
import io
import os
import time
from typing import Dict, List, Optional, Union

import httpx
import pytest

OFFICIAL = {}


def photon_counter():
    from leptonai.photon import Photon, handler

    class Counter(Photon):
        def init(self):
            self.counter = 0

        @handler("add")
        def add(self, x: int) -> int:
            self.counter += x
            return self.counter

        @Photon.handler("sub")
        def sub(self, x: int) -> int:
            self.counter -= x
            return self.counter

    return Counter


def photon_images():
    from io import BytesIO

    from leptonai.photon import FileParam, Photon, PNGResponse
    from PIL import Image

    class Gray(Photon):
        requirement_dependency = ["pillow"]

        @Photon.handler(path="gray", method="POST")
        def gray(self, img: FileParam) -> PNGResponse:
            out = BytesIO()
            Image.open(img.file).convert("L").save(out, format="PNG")
            out.seek(0)
            return PNGResponse(out)

    return Gray


def photon_generate():
    from leptonai.photon import Photon
    from leptonai.photon.types import File, HTTPException, get_file_content

    class Generate(Photon):
        handler_max_concurrency = 4
        requirement_dependency = ["torch", "git+https://example.org/x.git"]
        deployment_template: Dict = {"resource_shape": "gpu.a10", "env": {"P1_MODEL": "small"}, "secret": []}

        def init(self):
            self.model = os.environ["P1_MODEL"]

        @Photon.handler("run", example={"prompt": "a", "num": 2})
        def run(self, prompt: Union[str, List[str]], num: Optional[int] = 1, **kwargs) -> Union[str, List[str]]:
            if not prompt:
                raise HTTPException(status_code=400, detail="no prompt")
            return [f"{self.model}:{prompt}:{kwargs.get('seed')}"] * num

        @Photon.handler
        def size(self, file: File) -> int:
            return len(get_file_content(file))

    return Generate


def photon_metrics_style():
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from leptonai.photon import Photon

    class Streams(Photon):
        @Photon.handler("stream")
        def stream(self, n: int) -> StreamingResponse:
            def parts():
                for i in range(n):
                    yield f"{i}\n".encode()
                    time.sleep(0.001)

            return StreamingResponse(parts(), media_type="text/event-stream")

        @Photon.handler("sub", mount=True)
        def sub(self) -> FastAPI:
            app = FastAPI()

            @app.get("/ping")
            def ping():
                return "pong"

            return app

    return Streams


def photon_static():
    from leptonai.photon import Photon, StaticFiles

    class Static(Photon):
        @Photon.handler(path="assets", mount=True)
        def assets(self):
            return StaticFiles(directory=os.path.dirname(__file__))

        @Photon.handler(method="GET")
        def hello(self):
            return "world"

    return Static


def photon_batch():
    from leptonai.photon import Photon

    class Batch(Photon):
        @Photon.handler(max_batch_size=4, max_wait_time=0.02)
        async def run(self, x: List[int], y: List[int]) -> List[int]:
            return [a + b for a, b in zip(x, y)]

    return Batch


def photon_pydantic():
    from leptonai.photon import Photon
    from pydantic import BaseModel, Field

    class Item(BaseModel):
        name: str
        tags: List[str] = Field(default_factory=list)

    class Items(Photon):
        @Photon.handler("items/add")
        def add(self, item: Item, times: int = 1) -> Item:
            return Item(name=item.name * times, tags=item.tags + ["seen"])

    return Items


def photon_state():
    from leptonai.kv import KV
    from leptonai.objectstore import PrivateObjectStore
    from leptonai.photon import Photon
    from leptonai.queue import Empty, Queue

    class State(Photon):
        def init(self):
            self.kv = KV("official", create_if_not_exists=True)
            self.queue = Queue("official", create_if_not_exists=True)
            self.store = PrivateObjectStore()

        @Photon.handler
        def put(self, key: str, value: str):
            self.kv.put(key, value)
            self.queue.send(key)
            self.store.put(key, io.BytesIO(value.encode()))

        @Photon.handler
        def next(self) -> str:
            try:
                key = self.queue.receive()
            except Empty:
                return "empty"
            return f"{key}={self.kv.get(key).decode()}={self.store.get(key).read().decode()}"

    return State


def test_counter(serve):
    from leptonai.client import Client

    client = Client(str(serve(photon_counter()).base_url))
    assert client.add(x=5) == 5
    assert client.sub(x=2) == 3
    assert client.paths() == ["/add", "/sub"]
    with pytest.raises(AttributeError):
        client.multiply


def test_images(serve):
    from leptonai.client import Client
    from leptonai.photon import FileParam
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(out, format="PNG")
    client = Client(str(serve(photon_images()).base_url))
    for given in (
        FileParam.encode(out.getvalue()),
        "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(),
        FileParam(out.getvalue()),
    ):
        answer = client.gray(img=given)
        assert Image.open(io.BytesIO(answer)).mode == "L"


def test_generate(serve, monkeypatch):
    monkeypatch.delenv("P1_MODEL", raising=False)
    client = serve(photon_generate())
    assert client.post("/run", json={"prompt": "a", "num": 2, "seed": 3}).json() == ["small:a:3"] * 2
    assert client.post("/run", json={"prompt": ""}).json() == {"error": "no prompt"}
    assert client.post("/size", json={"file": "encoded:" + base64.b64encode(b"12345").decode()}).json() == 5
    assert client.post("/size", json={"file": "no file"}).status_code == 422


def test_streams_and_mounted_fastapi(serve):
    from leptonai.client import Client

    url = str(serve(photon_metrics_style()).base_url)
    assert b"".join(Client(url, stream=True).post("stream", n=3)) == b"0\n1\n2\n"
    assert Client(url).sub.ping() == "pong"


def test_static_batch_pydantic(serve):
    static = serve(photon_static())
    assert static.get("/assets/conftest.py").status_code == 200
    assert static.get("/hello").json() == "world"
    assert serve(photon_batch()).post("/run", json={"x": 1, "y": 2}).json() == 3
    items = serve(photon_pydantic())
    assert items.post("/items/add", json={"item": {"name": "ab"}, "times": 2}).json() == {
        "name": "abab",
        "tags": ["seen"],
    }


def test_state(serve):
    client = serve(photon_state())
    assert client.post("/put", json={"key": "a", "value": "1"}).status_code == 204
    assert [client.post("/next").json() for _ in range(2)] == ["a=1=1", "empty"]


def test_tools_and_utilities():
    from typing import Annotated

    from leptonai.util import asyncfy, check_photon_name, find_available_port, switch_cwd  # noqa: F401
    from leptonai.util.tool import get_tools_spec

    def weather(city: Annotated[str, "which city"], days: int = 1):
        """The weather."""

    spec = get_tools_spec(weather)["function"]
    assert (spec["name"], spec["description"]) == ("weather", "The weather.")
    assert spec["parameters"]["properties"]["city"] == {"description": "which city", "type": "string"}
    assert spec["parameters"]["required"] == ["city"]
    assert httpx  # the client of users' own scripts
