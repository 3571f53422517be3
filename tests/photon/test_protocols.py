"""The real clients of each protocol against a running service, and what a hostile client sends instead."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest

from leptonai.base.errors import InvalidInput
from leptonai.photon.protocols.oip_tensors import InferInput, tensors_of

from .conftest import ROW, call

COLUMNS = list(ROW)


@pytest.fixture(scope="module")
def spoken(zoo, tmp_path_factory):
    """`digits@1` over HTTP and gRPC."""
    import subprocess
    import sys

    from leptonai.base.home import Home
    from leptonai.photon.process import read_state

    root = tmp_path_factory.mktemp("spoken") / "home"
    shutil.copytree(zoo.root, root)
    home = Home(root)
    command = [sys.executable, "-m", "leptonai.cli.main", "serve", "zoo:digits@1", "--port", "0", "--grpc-port", "0"]
    import os

    child = subprocess.Popen(command, env={**os.environ, "LEPTON_HOME": str(root)}, stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    yield read_state(home.services / "digits")
    child.terminate()
    assert child.wait(30) == 0


def expected(zoo, rows):
    from leptonai.tasks.model import load

    return [prediction["label"] for prediction in load("digits@1", zoo).predict(rows)]


def tensors(rows):
    return {name: np.array([row[name] for row in rows]) for name in COLUMNS}


ROWS = [{**ROW, "p21": float(value)} for value in range(6)]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_over_http(spoken, zoo, binary):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(spoken.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits", "1")
    metadata = client.get_model_metadata("digits")
    assert [one["name"] for one in metadata["outputs"]] == ["label", "scores"]
    inputs = []
    for name, values in tensors(ROWS).items():
        inputs.append(triton.InferInput(name, [6], "FP64"))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    answer = client.infer("digits", inputs, outputs=outputs, priority=1, timeout=20_000_000)

    assert answer.as_numpy("label").tolist() == expected(zoo, ROWS)
    assert answer.as_numpy("scores").shape == (6, 10)
    assert len(client.infer("digits", inputs).as_numpy("label")) == 6  # no outputs named: all, as bytes
    with pytest.raises(triton.InferenceServerException, match="no such model"):
        client.infer("mnist", inputs)


def test_tritonclient_over_grpc(spoken, zoo):
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(spoken.grpc)
    inputs = []
    for name, values in tensors(ROWS).items():
        inputs.append(triton.InferInput(name, [6], "FP64"))
        inputs[-1].set_data_from_numpy(values)

    assert client.is_model_ready("digits") and client.get_model_metadata("digits").name == "digits"
    assert client.infer("digits", inputs, client_timeout=20).as_numpy("label").tolist() == expected(zoo, ROWS)
    with pytest.raises(triton.InferenceServerException, match="missing"):
        client.infer("digits", inputs[:3])


def test_feedback_on_a_request_in_tensors(spoken):
    body = {"inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [ROW[n]]} for n in COLUMNS]}
    status, answer, _ = call(spoken, "POST", "/v2/models/digits/infer", body)

    assert status == 200
    assert call(spoken, "POST", "/feedback", {"request_id": answer["id"], "label": 3})[0] == 200


def test_arrow(spoken, zoo):
    import http.client
    import urllib.parse

    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = pa.table(tensors(ROWS))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(spoken.url).netloc)
    connection.request(
        "POST", "/predict", sink.getvalue().to_pybytes(), {"content-type": "application/vnd.apache.arrow.stream"}
    )
    found = pa.ipc.open_stream(connection.getresponse().read()).read_all()

    assert found["label"].to_pylist() == expected(zoo, ROWS)


def test_server_sent_events_and_server_timing(spoken):
    status, text, _ = call(spoken, "POST", "/predict", {"rows": ROWS * 10}, {"accept": "text/event-stream"})
    starts = [
        json.loads(line[6:])["start"] for line in text.splitlines() if line.startswith("data: ") and '"start"' in line
    ]

    assert (status, starts) == (200, [0, 32])
    assert "event: done" in text
    assert "queue;dur=" in call(spoken, "POST", "/predict", ROW)[2]["server-timing"]


def test_websocket(spoken):
    from websockets.sync.client import connect

    with connect(spoken.url.replace("http", "ws") + "/predict") as socket:
        for row in ROWS:
            socket.send(json.dumps(row))
            assert json.loads(socket.recv())["model"] == "digits@1"
        socket.send('{"p10": NaN}')
        assert json.loads(socket.recv())["status"] == 400
    with (
        pytest.raises(Exception, match="403"),
        connect(spoken.url.replace("http", "ws") + "/predict", origin="https://evil.test"),
    ):
        pass


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-request-timeout-ms", "0"), ("x-request-timeout-ms", "soon"), ("x-request-priority", "urgent")],
)
def test_terms_that_cannot_be_meant(spoken, header, value):
    assert call(spoken, "POST", "/predict", ROW, {header: value})[0] == 400


@pytest.mark.parametrize(
    ("shape", "datatype", "data"),
    [
        ([2**31, 2**31], "FP64", [1]),
        ([-1], "FP64", [1]),
        ([True], "FP64", [1]),
        ([1] * 40, "FP64", [1]),
        ([2], "FP64", [1]),
        ([1], "FP128", [1]),
        ([1], "FP64", ["a"]),
        ([1], "FP64", [None]),
        ([1], "INT64", [1.5]),
        ([1], "UINT8", [256]),
        ([1], "BYTES", [1]),
        ([2], "FP64", [[1], [1, 2]]),
        ([1], "FP64", None),
    ],
    ids=str,
)
def test_tensors_that_cannot_be_are_refused_before_memory_is_taken(spoken, shape, datatype, data):
    """S49."""
    body = {"inputs": [{"name": "p10", "shape": shape, "datatype": datatype, "data": data}]}
    status, answer, _ = call(spoken, "POST", "/v2/models/digits/infer", body)

    assert (status == 400 and "p10" in answer["error"]) or "inference request" in answer["error"]


@pytest.mark.parametrize("size", [0, 7, 9, 2**40, -8, "8", True, 8.5])
def test_binary_sizes_that_do_not_fit(size):
    with pytest.raises(InvalidInput):
        tensors_of([InferInput("x", [1], "FP64", {"binary_data_size": size})], memoryview(bytes(8)))


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x01\x00\x00\x00", b"\x00" * 4 + b"x", b"\x00\x00"])
def test_texts_whose_lengths_lie(raw):
    with pytest.raises(InvalidInput):
        tensors_of([InferInput("x", [1], "BYTES", {"binary_data_size": len(raw)})], memoryview(raw))


@pytest.mark.parametrize("length", ["-1", "1e3", "999999", "99999999999999999999", "०"])
def test_a_json_length_that_lies(spoken, length):
    headers = {"inference-header-content-length": length.encode().decode("latin-1")}
    assert call(spoken, "POST", "/v2/models/digits/infer", b'{"inputs": []}', headers)[0] == 400


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


TYPES = [
    "application/json",
    "application/octet-stream",
    "application/x-npy",
    "application/vnd.apache.arrow.stream",
    "application/x-pickle",
    "application/python-pickle",
    "application/vnd.bentoml+pickle",
    "application/x-python-serialize",
    "application/x-msgpack",
    "application/cbor",
    "application/x-numpy",
    "application/x-npz",
    "application/zip",
    "application/gzip",
    "application/x-yaml",
    "text/yaml",
    "text/plain",
    "text/csv",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "image/png",
    "audio/wav",
    "application/x-protobuf",
    "application/grpc",
    "application/x-ndjson",
    "application/parquet",
    "application/x-hdf5",
    "application/x-joblib",
    "application/x-torch",
]


@pytest.mark.parametrize("kind", TYPES)
def test_a_pickle_is_never_loaded_whatever_its_type(spoken, tmp_path, kind):
    """S9: every route that takes a body, under thirty content types, with npy's own pickle too."""
    marker = tmp_path / "ran"
    memory = io.BytesIO()
    np.save(memory, np.array([Canary(marker)], object), allow_pickle=True)
    for path in ("/predict", "/feedback", "/model", "/v2/models/digits/infer", "/v2/repository/index"):
        for body in (pickle.dumps(Canary(marker)), memory.getvalue()):
            method = "PUT" if path == "/model" else "POST"
            status, _, _ = call(
                spoken, method, path, body, {"content-type": kind, "inference-header-content-length": "0"}
            )
            assert 400 <= status < 500 or path.endswith("index")
    assert not marker.exists()


@pytest.mark.parametrize(
    "header",
    [b"range: bytes=" + b"0-," * 33_000, b"x: " + b"y" * 2**20, b"x: y\r\n" * 10_000],
    ids=["range", "long", "many"],
)
def test_headers_that_are_costly_to_read_are_cut_off(spoken, header):
    """S48."""
    import socket
    import urllib.parse

    url = urllib.parse.urlsplit(spoken.url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as client:
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + header + b"\r\n\r\n")
            first = client.recv(12)
        except (ConnectionResetError, BrokenPipeError):
            first = b""
    assert not first.startswith(b"HTTP/1.1 5")
    assert call(spoken, "POST", "/predict", ROW)[0] == 200
