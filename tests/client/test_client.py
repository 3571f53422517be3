"""la.Client: made without a server, used with a real one; its errors are the server's sentences."""

import socket
import sys
import threading

import pytest

import leptonai as la
from leptonai.base.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from leptonai.photon.process import start_service

TOKEN = "token-of-the-tests"


@pytest.fixture(scope="module")
def service(zoo, tmp_path_factory):
    import shutil

    from leptonai.base.home import Home

    root = tmp_path_factory.mktemp("client")
    shutil.copytree(zoo.root, root / "home")
    with start_service("digits@1", "digits", home=Home(root / "home"), token=TOKEN) as running:
        yield running


@pytest.fixture
def client(service):
    with la.Client(service.url, token=TOKEN) as client:
        yield client


def test_a_client_needs_no_server_until_it_is_used(monkeypatch):
    monkeypatch.delenv("LEPTON_URL", raising=False)
    client = la.Client("your_api_key")
    assert (client.url, client.token) == ("http://127.0.0.1:8080", "your_api_key")
    assert "your_api_key" not in repr(client)
    assert la.Client("https://models.example/").url == "https://models.example"
    assert la.Client("key", url="http://h:1").url == "http://h:1"
    monkeypatch.setenv("LEPTON_URL", "http://elsewhere:80")
    assert la.Client().url == "http://elsewhere:80"


def test_importing_the_client_imports_no_http_library():
    import subprocess

    code = "import sys, leptonai as la; la.Client('your_api_key'); print('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_round_of_a_prediction(client, row):
    answer = client.predict(row)
    stored = client.feedback(answer["request_id"], label=answer["prediction"]["label"], comment="right")

    assert stored == {"request_id": answer["request_id"], "row": 0, "kinds": ["label", "comment"]}
    assert client.health()["status"] == "ok"
    assert client.model()["classes"] == list(range(10))
    assert client.openapi()["openapi"] == "3.1.0"
    assert client.swap("digits@2") == {"model": "digits@2", "before": "digits@1"}
    assert client.predict([row])["model"] == "digits@2"
    client.swap("digits@1")


def test_rows_of_a_dataframe_and_numpy_values(client, row):
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame([row, {**row, "p10": np.nan}])
    predictions = client.predict(frame)["predictions"]

    assert predictions[0] == client.predict({key: np.float32(value) for key, value in row.items()})["prediction"]
    assert len(predictions) == 2


def test_errors_are_the_servers_sentences(client, service, row):
    with pytest.raises(InvalidInput, match="row 0, column 'p10' cannot be used"):
        client.predict({**row, "p10": "x"})
    with pytest.raises(InvalidInput, match="no label of 'digit'"):
        client.feedback(client.predict(row)["request_id"], label=77)
    with pytest.raises(NotFound, match="no logged request"):
        client.feedback("0" * 32, label=1)
    with pytest.raises(NotFound, match="no version 9"):
        client.swap("digits@9")
    with pytest.raises(Conflict, match="another signature"):
        client.swap("prices")
    with pytest.raises(Refused, match="needs its token"):
        la.Client(service.url, token="wrong-token").predict(row)
    with pytest.raises(InvalidInput, match="no rows"):
        client.predict("row")
    with pytest.raises(InvalidInput, match="cannot be sent as JSON"):
        client.predict({"p10": object()})


def test_nobody_there_is_one_sentence_after_bounded_tries():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable, match="no service answers at"):
            la.Client(url, timeout_s=0.5).health()


@pytest.mark.parametrize("url", ["http://[", "http://h:notaport"])
def test_a_url_that_is_none(url):
    with pytest.raises((InvalidInput, Unavailable)):
        la.Client(url, timeout_s=0.2).health()


def server_of(*answers: bytes):
    """A socket that gives each connection the next answer, and counts the requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests = []

    def run():
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(answer)
        listener.close()

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", requests


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_429_was_not_started_and_is_tried_again():
    url, requests = server_of(
        answer("429 Too Many", b'{"error": "wait"}', "retry-after: 0"), answer("200 OK", b'{"model": "m@1"}')
    )
    assert la.Client(url).predict({"a": 1}) == {"model": "m@1"}
    assert len(requests) == 2


def test_what_may_have_been_started_is_not_tried_again():
    url, requests = server_of(b"", b"")
    with pytest.raises(Unavailable, match=r"connection to .* failed"):
        la.Client(url).predict({"a": 1})
    assert len(requests) == 1


def test_another_kind_of_server_is_said():
    url, _ = server_of(answer("200 OK", b"<html>"))
    with pytest.raises(Unavailable, match="is no Lepton service"):
        la.Client(url).health()


def test_connections_are_kept(client, row):
    client.predict(row)
    pool = client._open()._transport._pool
    first = pool.connections[0]
    for _ in range(5):
        client.predict(row)
    assert pool.connections == [first]
