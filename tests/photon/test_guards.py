"""Who may use a service: token, host names, pages of other sites, slow clients, and what a server refuses to start with."""

import socket
import time
import urllib.parse

import pytest

from leptonai.base.errors import InvalidInput, Refused
from leptonai.photon import openapi, protocol, server
from leptonai.photon.process import start_service

from .conftest import ROW, call

TOKEN = "a-long-enough-token"


@pytest.fixture(scope="module")
def guarded(zoo, tmp_path_factory):
    import shutil

    from leptonai.base.home import Home

    root = tmp_path_factory.mktemp("guarded")
    shutil.copytree(zoo.root, root / "home")
    with start_service("digits@1", "guarded", home=Home(root / "home"), token=TOKEN) as service:
        yield service


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.mark.parametrize(
    "path", [*(path for path in openapi.ROUTES if path != "/healthz"), "/nowhere", "//healthz", "/healthz/"]
)
def test_without_the_token_every_route_but_health_is_401(guarded, path):
    for method in METHODS:
        for credential in (
            None,
            "Bearer wrong-token",
            f"Bearer {TOKEN}x",
            f"Token {TOKEN}",
            "Bearer",
            f"Basic {TOKEN}",
        ):
            headers = {"authorization": credential} if credential else {}
            assert call(guarded, method, path, headers=headers)[0] == 401, (method, credential)


def test_with_the_token(guarded):
    import base64

    assert call(guarded, "GET", "/healthz")[0] == 200
    assert call(guarded, "POST", "/predict", ROW, {"authorization": f"Bearer {TOKEN}"})[0] == 200
    as_browsers_send_it = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    assert call(guarded, "GET", "/", headers={"authorization": f"Basic {as_browsers_send_it}"})[0] == 200
    assert call(guarded, "GET", "/healthz", headers={"authorization": "Bearer wrong"})[0] == 200


def test_two_authorization_headers_are_an_error(guarded):
    url = urllib.parse.urlsplit(guarded.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as client:
        client.sendall(
            f"GET /model HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\nauthorization: Bearer x\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_the_token_is_not_in_the_process_list(guarded):
    with open(f"/proc/{guarded.pid}/cmdline", "rb") as file:
        assert TOKEN.encode() not in file.read()


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test:80", "", "169.254.169.254"])
def test_other_names_for_this_machine_are_refused(served, host):
    """DNS rebinding: the page of evil.test reaches us, but says so in `Host`."""
    for method, path in (("GET", "/model"), ("POST", "/predict"), ("GET", "/healthz")):
        status, answer, _ = call(served, method, path, ROW if method == "POST" else None, {"host": host})
        assert (status, answer["code"]) == (403, "WrongHost")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8080"])
def test_names_of_loopback_are_taken(served, host):
    assert call(served, "GET", "/healthz", headers={"host": host})[0] == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("POST", "/feedback"), ("PUT", "/model")])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_pages_of_other_sites_are_refused(served, method, path, headers):
    status, answer, _ = call(served, method, path, {"ref": "digits@2"}, headers)

    assert (status, answer["code"]) == (403, "Refused")
    assert call(served, "GET", "/model")[1]["model"] == "digits@1"


def test_our_own_page_is_taken(served):
    assert call(served, "POST", "/predict", ROW, {"origin": served.url, "sec-fetch-site": "same-origin"})[0] == 200


def test_a_bind_to_the_network_needs_a_token(home):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(Refused, match="needs a token"):
            server.serve("digits@1", host=host, port=0, home=home)
    with pytest.raises(InvalidInput, match="cannot be a token"):
        server.serve("digits@1", port=0, token="short", home=home)


def test_it_listens_on_loopback_only(served):
    port = f"{urllib.parse.urlsplit(served.url).port:04X}"
    with open("/proc/net/tcp") as file:
        listening = [
            fields[1] for fields in map(str.split, file) if fields[3] == "0A" and fields[1].endswith(f":{port}")
        ]
    assert listening == [f"0100007F:{port}"]


def test_a_client_that_drips_headers_is_cut_off_and_delays_nobody(served):
    url = urllib.parse.urlsplit(served.url)
    drips = [
        socket.create_connection((url.hostname, url.port), timeout=protocol.HEADERS_TIMEOUT_S + 10) for _ in range(20)
    ]
    for drip in drips:
        drip.sendall(b"POST /predict HTTP/1.1\r\nhost: local")
    started = time.monotonic()

    assert call(served, "POST", "/predict", ROW)[0] == 200
    assert time.monotonic() - started < 5
    for drip in drips:
        assert drip.recv(100) == b"", "closed by the server"
        drip.close()


def test_endless_headers_are_cut_off(served):
    url = urllib.parse.urlsplit(served.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for number in range(100_000):
                client.sendall(b"x-%d: %s\r\n" % (number, b"y" * 1000))


def test_the_page_is_self_contained_and_its_script_is_allowed_by_hash_only(served):
    import base64
    import hashlib
    import re

    status, html, headers = call(served, "GET", "/")

    assert status == 200
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert "innerHTML" not in script
