"""A service's routes as methods, from its document alone."""

import pytest

from leptonai.base.errors import InvalidInput
from leptonai.client.endpoints import attribute_of, tree_of

BODY = {"requestBody": {"content": {"application/json": {"example": {"x": 2}}}}}
DOCUMENT = {
    "paths": {
        "/run": {"post": {"summary": "Run", "description": "Runs it.", **BODY}},
        "/text-to-image/v1.5": {"post": {}},
        "/both": {"get": {"parameters": [{"name": "q", "in": "query"}]}, "post": {}},
        "/items/{item_id}": {"get": {"parameters": [{"name": "item_id", "in": "path", "required": True}]}},
        "/add": {"post": {}},
    }
}


@pytest.fixture
def calls():
    return []


@pytest.fixture
def client(calls):
    return tree_of(DOCUMENT, lambda method, path, **request: calls.append((method, path, request)))


def test_paths_become_methods(client, calls):
    client.run(x=1)
    client.text_to_image.v1_5(prompt="a")
    client.both(a=1)
    client.both.get(q="x")
    client.items(item_id="a/b")
    client.add(data=b"hi")
    assert [(method, path) for method, path, _ in calls] == [
        ("POST", "/run"), ("POST", "/text-to-image/v1.5"), ("POST", "/both"), ("GET", "/both"), ("GET", "/items/a%2Fb"), ("POST", "/add"),
    ]  # fmt: skip
    assert calls[3][2] == {"params": {"q": "x"}}
    assert calls[5][2]["body"] == {"data": "encoded:aGk="}
    assert dir(client) == ["add", "both", "items", "run", "text_to_image"]
    assert dir(client.both) == ["get", "post"]


def test_documentation_and_mistakes(client):
    assert "Runs it." in client.run.__doc__ and "{'x': 2}" in client.run.__doc__
    with pytest.raises(InvalidInput, match="by name"):
        client.run(1)
    with pytest.raises(InvalidInput, match="needs item_id"):
        client.items()
    with pytest.raises(InvalidInput, match="v1_5"):
        client.text_to_image()
    with pytest.raises(AttributeError, match="Did you mean 'run'"):
        client.rum
    assert attribute_of("class") == "class_"
