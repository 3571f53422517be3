"""What a handler's signature and options mean: arguments, answers, errors, inheritance, direct calls."""

import asyncio
import enum

import numpy as np
import pydantic
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from leptonai.photon import HTMLResponse, HTTPException, Photon


class Point(pydantic.BaseModel):
    x: float
    y: float = 0.0


class Color(enum.Enum):
    RED = "red"


class Everything(Photon):
    def init(self):
        self.total = 0

    @Photon.handler("add", example={"x": 2})
    def add(self, x: int, y: int = 1) -> int:
        """Add x times y."""
        self.total += x * y
        return self.total

    @Photon.handler
    async def bare(self, text: str = "nothing"):
        return {"text": text}

    @Photon.handler("deep/er/path", method="GET")
    def query(self, a: int, tags: list[str] = [], flag: bool = False):
        return [a, tags, flag]

    @Photon.handler("items/{item_id}", method="GET")
    def item(self, item_id: int):
        return item_id

    @Photon.handler("")
    def root(self):
        return "root"

    @Photon.handler
    def model(self, point: Point, points: list[Point] = []):
        return Point(x=point.x + sum(p.x for p in points))

    @Photon.handler
    def extra(self, a: int, **more):
        return {"a": a, "more": more}

    @Photon.handler
    def nothing(self):
        return None

    @Photon.handler
    def array(self):
        return {"values": np.arange(3), "one": np.float32(0.5)}

    @Photon.handler
    def page(self) -> HTMLResponse:
        return "<b>hello</b>"

    @Photon.handler
    def blob(self):
        return b"\x00\x01"

    @Photon.handler
    def teapot(self):
        raise HTTPException(418, "short and stout")

    @Photon.handler
    def broken(self):
        raise ValueError("this went wrong")

    @Photon.handler
    def unwritable(self):
        return {"value": object()}

    @Photon.handler(include_in_schema=False)
    def hidden(self, model_config: str = "", _private: int = 0):
        return [model_config, _private]


@pytest.fixture(scope="module")
def client():
    from .conftest import served

    with served(Everything()) as client:
        yield client


def test_arguments_and_answers(client):
    assert client.post("/add", json={"x": 3}).json() == 3
    assert client.post("/add", json={"x": "2", "y": 2.0}).json() == 7
    assert client.post("/bare").json() == {"text": "nothing"}
    assert client.get("/deep/er/path", params={"a": 1, "tags": ["x", "y"], "flag": "true"}).json() == [
        1,
        ["x", "y"],
        True,
    ]
    assert client.get("/items/7").json() == 7
    assert client.post("/").json() == "root"
    assert client.post("/model", json={"point": {"x": 1}, "points": [{"x": 2}]}).json() == {"x": 3.0, "y": 0.0}
    assert client.post("/extra", json={"a": 1, "b": [2]}).json() == {"a": 1, "more": {"b": [2]}}
    assert client.post("/array").json() == {"values": [0, 1, 2], "one": 0.5}
    assert client.post("/hidden", json={"model_config": "m", "_private": 3}).json() == ["m", 3]


def test_kinds_of_answers(client):
    nothing = client.post("/nothing")
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert client.post("/page").headers["content-type"].startswith("text/html")
    blob = client.post("/blob")
    assert (blob.headers["content-type"], blob.content) == ("application/octet-stream", b"\x00\x01")


def test_errors_are_sentences(client):
    teapot = client.post("/teapot")
    assert (teapot.status_code, teapot.json()) == (418, {"error": "short and stout"})
    broken = client.post("/broken")
    assert (broken.status_code, broken.json()) == (500, {"error": "this went wrong"})
    assert "cannot be written as JSON" in client.post("/unwritable").json()["error"]
    method = client.get("/add")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")


BODIES = [
    b"", b"{", b"[]", b"null", b"{}", b'{"x": 1}', b'{"x": "1"}', b'{"x": "one"}', b'{"x": 1.0}', b'{"x": 1.5}', b'{"x": true}', b'{"x": null}',
    b'{"x": [1]}', b'{"x": 1, "y": {}}', b'{"x": 1, "z": 5}', b'{"x": 123456789012345678901234567890}', b'"x"', b'{"x": 1e2}',
]  # fmt: skip


def test_bodies_mean_what_they_mean_to_fastapi():
    class Ours(Photon):
        @Photon.handler
        def f(self, x: int, y: float = 2.0):
            return {"x": x, "y": y}

    theirs = FastAPI()

    class Body(pydantic.BaseModel):
        x: int
        y: float = 2.0

    @theirs.post("/f")
    def f(body: Body):
        return {"x": body.x, "y": body.y}

    ours, peer = TestClient(Ours().app), TestClient(theirs)
    for body in BODIES:
        one = ours.post("/f", content=body, headers={"content-type": "application/json"})
        other = peer.post("/f", content=body, headers={"content-type": "application/json"})
        assert one.status_code == other.status_code, body
        if one.status_code == 200:
            assert one.json() == other.json(), body
        elif other.json()["detail"][0]["type"] not in ("json_invalid", "model_attributes_type", "model_type"):
            pairs = [[(d["type"], d["loc"], d["msg"]) for d in answer.json()["detail"]] for answer in (one, other)]
            assert pairs[0] == pairs[1], body


def test_options_that_contradict_each_other_are_errors():
    for options in (
        {"method": "DELETE"}, {"use_raw_args": True, "method": "GET"}, {"use_raw_args": True, "cancel_on_disconnect": 1},
        {"max_batch_size": 4}, {"max_wait_time": 1}, {"max_batch_size": 1, "max_wait_time": 1}, {"max_batch_size": 2, "max_wait_time": 0},
        {"mount": True, "max_batch_size": 2, "max_wait_time": 1}, {"request": 1}, {"callback": 1}, {"cancel_on_connect_interval": 1},
        {"rate_limit": "often"}, {"isolate": True, "mount": True},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Photon.handler("x", **options)


def test_an_option_that_there_is_not_is_named():
    with pytest.warns(UserWarning, match="rate_limit"):

        @Photon.handler("x", rate_limits="1/second")
        def f(self):
            return 1


def test_two_methods_on_one_route_are_refused():
    with pytest.raises(ValueError, match="both POST /a"):

        class Twice(Photon):
            @Photon.handler("a")
            def one(self): ...

            @Photon.handler("a")
            def two(self): ...


def test_handlers_are_inherited_and_may_be_decorated_again(serve):
    class Base(Photon):
        requirement_dependency = ["numpy"]

        @Photon.handler
        def same(self):
            return "base"

        @Photon.handler
        def moved(self):
            return "base"

    class Child(Base):
        requirement_dependency = ["torch", "uninstall numpy"]

        def same(self):
            return "child"

        @Photon.handler("elsewhere")
        def moved(self):
            return "child"

    assert Child.requirements() == ["numpy", "torch", "uninstall numpy"]
    client = serve(Child)
    assert client.post("/same").json() == "child"
    assert client.post("/elsewhere").json() == "child"
    assert client.post("/moved").status_code == 307


def test_direct_calls_run_init_first_and_once():
    class Direct(Photon):
        count = 0

        def init(self):
            Direct.count += 1

        @Photon.handler
        def double(self, x):
            return 2 * x

        @Photon.handler
        async def later(self, x):
            return x

    photon = Direct()
    assert photon.double(4) == 8
    assert asyncio.run(photon.later(x=5)) == 5
    assert Direct.count == 1


def test_a_constructor_that_forgets_super_is_said():
    class Forgetful(Photon):
        def __init__(self):
            self.x = 1

        @Photon.handler
        def f(self): ...

    with pytest.raises(RuntimeError, match="super"):
        Forgetful().f()


def test_the_document_tells_everything(client):
    document = client.get("/openapi.json").json()
    add = document["paths"]["/add"]["post"]
    assert add["description"] == "Add x times y."
    assert add["requestBody"]["content"]["application/json"]["example"] == {"x": 2}
    schema = document["components"]["schemas"]["add_input"]
    assert (schema["required"], set(schema["properties"])) == (["x"], {"x", "y"})
    assert "Point" in document["components"]["schemas"]
    assert document["paths"]["/items/{item_id}"]["get"]["parameters"][0]["in"] == "path"
    assert "/hidden" not in document["paths"]


def test_environment_defaults_and_required_variables(monkeypatch):
    import os

    from leptonai.base.errors import InvalidInput
    from leptonai.photon import ENV_VAR_REQUIRED

    class Needs(Photon):
        deployment_template = {"env": {"P1_NEEDED": ENV_VAR_REQUIRED, "P1_DEFAULT": "7"}, "secret": ["P1_SECRET"]}

        @Photon.handler
        def f(self):
            return os.environ["P1_DEFAULT"]

    monkeypatch.delenv("P1_NEEDED", raising=False)
    monkeypatch.setenv("P1_DEFAULT", "")
    monkeypatch.delenv("P1_DEFAULT")
    with pytest.raises(InvalidInput, match="P1_NEEDED"):
        Needs().f()
    monkeypatch.setenv("P1_NEEDED", "x")
    assert Needs().f() == "7"
    monkeypatch.delenv("P1_DEFAULT")

    class Wrong(Photon):
        deployment_template = {"envs": {}}

    with pytest.raises(InvalidInput, match="env"):
        Wrong()._call_init_once()
