"""Rows of the security table that a photon meets over HTTP: S9, S10, S25, S48, S49, S52, and URLs that lead inside."""

import ast
import pickle
import re
import socket
import time
from pathlib import Path

import pytest

import leptonai
from leptonai.base.errors import LeptonError, Refused
from leptonai.base.fetch import fetch
from leptonai.photon import File, Photon, StaticFiles

SOURCE = Path(leptonai.__file__).parent


class Target(Photon):
    max_body_bytes = 1 << 20

    @Photon.handler
    def take(self, x: dict = {}, file: File = None):
        return len(x)

    @Photon.handler("raw", use_raw_args=True)
    def raw(self, x: dict):
        return x

    @Photon.handler(mount=True)
    def static(self):
        return StaticFiles(directory=Path(__file__).parent)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


KINDS = [
    "application/octet-stream", "application/pickle", "application/x-pickle", "application/vnd.bentoml+pickle", "application/python-pickle",
    "application/cloudpickle", "application/x-joblib", "application/json", "text/plain", "application/x-python", "application/msgpack",
    "application/x-msgpack", "application/numpy", "application/x-npy", "application/yaml", "text/yaml", "application/xml", "text/xml",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/vnd.apache.arrow.stream", "image/png", "application/zip",
    "application/x-tar", "application/x-dill", "application/torch", "application/x-hdf5", "application/protobuf", "*/*", "",
]  # fmt: skip


def test_s9_no_content_type_makes_the_server_unpickle(serve, tmp_path):
    client = serve(Target)
    canary = tmp_path / "canary"
    body = pickle.dumps(Canary(canary))
    for kind in KINDS:
        for path in ("/take", "/raw", "/", "/metrics", "/openapi.json", "/queue-length", "/static/x"):
            headers = {"content-type": kind, "payload-container": "NdarrayContainer", "x-pickle": "1"}
            assert client.post(path, content=body, headers=headers).status_code in (307, 400, 403, 404, 405, 422)
    assert not canary.exists()


def test_s10_processes_of_a_photon_speak_over_pipes_only():
    for path in [*SOURCE.glob("photon/framework/*.py"), *SOURCE.glob("state/*.py"), *SOURCE.glob("photon/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {"multiprocessing", "zmq", "pickle", "cloudpickle"} & {one.split(".")[0] for one in names}, path


PATHS = [
    "../conftest.py", "..%2fconftest.py", "%2e%2e/conftest.py", "%2e%2e%2fconftest.py", "..%5cconftest.py", "....//conftest.py", "/etc/passwd",
    "%2fetc%2fpasswd", "..%c0%afconftest.py", "%252e%252e%252fconftest.py", "C:/x", "C:%5cx", "../../../../../../etc/passwd", "x%00.py",
    "./../../conftest.py", "\\etc\\passwd", "//etc/passwd", "..;/conftest.py",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_s25_static_paths_stay_in_their_folder(serve, path):
    client = serve(Target)
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port)) as raw:
        raw.sendall(f"GET /static/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 (400|404|307|405)", answer), answer[:100]
    assert b"root:" not in answer and b"Photons served by the real server" not in answer


def test_s25_a_link_in_a_static_folder_leads_nowhere(serve, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "site" / "link").symlink_to(tmp_path / "secret")

    class Linked(Photon):
        @Photon.handler(mount=True)
        def files(self):
            return StaticFiles(directory=tmp_path / "site")

    assert serve(Linked).get("/files/link").status_code == 404


def test_s48_costly_heads_are_refused_cheaply(serve):
    client = serve(Target)
    started = time.process_time()
    ranges = "bytes=" + ",".join(f"{n}-{n}" for n in range(6000))
    assert client.get("/static/conftest.py", headers={"range": ranges}).status_code in (200, 400, 416)
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port)) as raw:
        raw.sendall(b"GET /take HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(10_000)) + b"\r\n")
        assert raw.recv(1000)[:12] in (b"HTTP/1.1 431", b"")
    for head in ({"range": "bytes=0-," * 12_000}, {"x": "y" * 1_000_000}):
        try:
            assert client.get("/static/conftest.py", headers=head).status_code in (400, 416, 431)
        except Exception as error:
            assert type(error).__name__ in ("RemoteProtocolError", "ReadError", "WriteError"), error

    form = (
        "".join(f'--x\r\ncontent-disposition: form-data; name="f{n}"\r\n\r\nv\r\n' for n in range(10_000)) + "--x--\r\n"
    )

    boundary = {"content-type": "multipart/form-data; boundary=" + "b" * 60_000}
    assert client.post("/raw", content=form[:100_000], headers=boundary).status_code in (400, 422)
    assert client.get("/healthz").status_code == 200
    assert time.process_time() - started < 2


def test_s49_floods_and_huge_bodies_are_refused_before_they_are_held(serve):
    client = serve(Target)
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port)) as raw:
        raw.sendall(b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")

    def endless():
        for _ in range(3000):
            yield b" " * 1000

    try:
        assert client.post("/take", content=endless()).status_code == 413
    except Exception as error:
        assert type(error).__name__ in ("RemoteProtocolError", "ReadError", "WriteError"), error
    for body in (
        b'{"x":' * 50_000,
        b"[" * 200_000,
        b'{"x": {"a": NaN}}',
        b'{"x": 1e999}',
        b"\xff\xfe{}",
        b'{"x": {"\\ud800": 1}}',
    ):
        assert client.post("/take", content=body).status_code in (200, 422)
    assert client.post("/take", json={"x": {"a": 1}}).json() == 1
    assert serve(Target).post("/take").status_code == 200


def test_s52_our_patterns_do_not_backtrack():
    from leptonai.photon.framework.handler import _RATE
    from leptonai.photon.framework.photon import NAME
    from leptonai.photon.framework.source import _GIT
    from leptonai.photon.framework.templates import _PART

    for pattern in (NAME, _GIT, _PART, _RATE):
        for text in ("x" * 50_000, "a-" * 25_000, "https://" + "x" * 50_000, "https://" + ".git" * 12_500 + "!", "{" * 50_000, "1" * 50_000 + "/",
                     " " * 50_000, "git@" + "a:" * 25_000, "{a" * 25_000):  # fmt: skip
            started = time.process_time()
            pattern.match(text)
            pattern.sub("", text) if pattern is _PART else None
            assert time.process_time() - started < 0.2, (pattern.pattern, text[:20])


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://localhost:1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://0.0.0.0/",
     "http://[::ffff:127.0.0.1]/", "http://2130706433/", "http://0x7f.1/", "file:///etc/passwd", "http://user@127.0.0.1/", "ftp://host/x"],
)  # fmt: skip
def test_a_url_of_a_client_may_not_lead_inside(url):
    with pytest.raises((LeptonError, ValueError)) as error:
        fetch(url)
    assert "cannot be read" not in str(error.value)  # it was not asked at all


def test_a_redirect_may_not_lead_inside(serve, monkeypatch):
    class Redirecting(Photon):
        @Photon.handler(method="GET")
        def go(self):
            from starlette.responses import RedirectResponse

            return RedirectResponse("http://169.254.169.254/")

        @Photon.handler(method="GET")
        def file(self):
            return b"content"

    client = serve(Redirecting)
    port = client.base_url.port
    real = __import__("leptonai.base.fetch", fromlist=["_pinned"])._pinned
    monkeypatch.setattr("leptonai.base.fetch._pinned", lambda url: (url, {}, {}) if f":{port}/" in url else real(url))
    assert fetch(f"http://127.0.0.1:{port}/file") == b"content"
    with pytest.raises(Refused, match="own network"):
        fetch(f"http://127.0.0.1:{port}/go")
