"""POST /predict: one row, several rows, and every kind of bad input; each answer is a sentence, never a traceback."""

import json
import os

import pytest

from .conftest import ROW, call


def test_one_row_gives_one_prediction(served):
    status, answer, _ = call(served, "POST", "/predict", ROW)

    assert status == 200
    assert set(answer) == {"request_id", "model", "prediction"}
    assert answer["model"] == "digits@1"
    assert answer["prediction"]["label"] in range(10)
    assert sum(answer["prediction"]["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_several_rows_give_the_predictions_that_the_model_gives(served):
    from leptonai.tasks.model import load

    rows = [{**ROW, "p21": float(value)} for value in range(40)]
    status, answer, _ = call(served, "POST", "/predict", {"rows": rows})

    assert status == 200
    assert answer["predictions"] == load("digits@1", served.home).predict(rows)
    assert len(answer["request_id"]) == 32


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({**ROW, "p10": "nine"}, 400, "row 0, column 'p10'"),
        ({"rows": [ROW, {**ROW, "p20": [1]}]}, 400, "row 1, column 'p20'"),
        ({key: value for key, value in ROW.items() if key != "p43"}, 400, "no 'p43'"),
        ({"rows": []}, 400, "no rows"),
        ({"rows": [ROW, 7]}, 400, "row 1 is not an object"),
        ([ROW], 400, "not an object"),
        ({"rows": [ROW] * 10_001}, 413, "too many rows"),
        (b"", 400, "body is empty"),
        (b'{"p10": NaN}', 400, "cannot be read as JSON"),
        (b'{"p10": 1e999}', 400, "cannot be read as JSON"),
        (json.dumps({**ROW, "p10": 10**400}).encode(), 400, "p10"),
        (b'{"rows": ' + b"[" * 100_000, 400, "nested too deeply"),
        (b'{"p10": "\xff"}', 400, "not UTF-8"),
        (b'{"p10": 1', 400, "cannot be read as JSON"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:24],
)
def test_bad_bodies_are_refused_with_a_sentence(served, body, status, words):
    got, answer, _ = call(served, "POST", "/predict", body)

    assert (got, words in answer["error"]) == (status, True), answer
    assert answer["code"]
    assert "Traceback" not in answer["error"]
    assert call(served, "POST", "/predict", ROW)[0] == 200, "the service goes on"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/octet-stream"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": None},
        {"content-type": "application/json; charset=utf-16"},
        {"content-encoding": "gzip"},
    ],
    ids=str,
)
def test_only_plain_json_is_read(served, headers):
    status, answer, _ = call(served, "POST", "/predict", ROW, headers=headers)

    assert status == 415
    assert "application/json" in answer["error"]


def test_a_pickle_is_never_loaded(served, tmp_path):
    """The body would create a file if anything unpickled it, whatever the content type says."""
    import pickle

    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    body = pickle.dumps(Canary())
    for kind in (
        "application/json",
        "application/octet-stream",
        "application/python-pickle",
        "application/vnd.bentoml+pickle",
    ):
        status, _, _ = call(served, "POST", "/predict", body, headers={"content-type": kind})
        assert status == (400 if kind == "application/json" else 415)
    assert not (tmp_path / "canary").exists()


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(served):
    import socket
    import urllib.parse

    url = urllib.parse.urlsplit(served.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as client:
        head = f"POST /predict HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\ncontent-length: {2**30}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_beyond_the_limit_is_refused(served):
    chunks = (b"[" + b" " * 2**20 for _ in range(17))
    try:
        status, answer, _ = call(
            served, "POST", "/predict", chunks_of(chunks), encode_chunked=True, headers={"transfer-encoding": "chunked"}
        )
    except (BrokenPipeError, ConnectionResetError):
        return  # it was closed while we still sent
    assert (status, answer["code"]) == (413, "BodyTooLarge")


def chunks_of(parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_routes_and_methods(served):
    status, answer, _ = call(served, "GET", "/predictt")
    assert (status, answer["code"]) == (404, "NotFound")
    assert "/predict" in answer["error"]

    status, answer, headers = call(served, "GET", "/predict")
    assert (status, headers["allow"]) == (405, "POST")
    assert call(served, "DELETE", "/model")[2]["allow"] == "GET, PUT, HEAD"
    for path in ("//predict", "/predict/", "/PREDICT", "/api/../predict", "/predict%2f"):
        assert call(served, "POST", path, ROW)[0] == 404, path
    status, body, headers = call(served, "HEAD", "/healthz")
    assert (status, body) == (200, "")


def test_a_model_without_an_answer_is_a_500_without_details(home):
    """The model's own fault does not reach the client, and does not take the neighbours in its batch with it."""
    from leptonai.photon.batching import Work
    from leptonai.photon.execution import Done, execute
    from leptonai.photon.served import Served

    served = Served.load("digits@1", home)
    outputs = served.replicas[0].model.outputs

    def breaks_on_negative(columns):
        assert columns["p10"].min() >= 0
        return outputs(columns)

    served.replicas[0].model.outputs = breaks_on_negative
    good, bad, unreadable = [ROW, ROW], [{**ROW, "p10": -1.0}], [{"p10": 1}]
    batch = [Work(rows=rows, count=len(rows)) for rows in (good, bad, unreadable, good)]
    results = execute(served, served.replicas[0], batch)

    assert [type(result).__name__ for result in results] == ["Done", "LeptonError", "InvalidInput", "Done"]
    assert isinstance(results[0], Done) and len(results[0].predictions) == 2
    assert results[0].predictions == results[3].predictions
    assert "AssertionError" not in str(results[1])
