"""The built-in routes, what there is not, who may call: token, CORS, hosts of the network."""

import httpx
import pytest

from leptonai.base.errors import Refused
from leptonai.photon import Photon


class Small(Photon):
    """A small photon."""

    @Photon.handler
    def greet(self, name: str = "you"):
        return f"hello {name}"


def test_built_in_routes(serve):
    client = serve(Small)
    assert client.get("/healthz").json() == client.get("/livez").json() == {"status": "ok"}
    assert client.get("/queue-length").json() == 0
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    for path in ("/docs", "/redoc", "/ledoc"):
        page = client.get(path)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert b"http://" not in page.content.replace(b"http://www.w3.org", b"") and b"https://" not in page.content
    client.post("/greet", json={"name": 3})
    client.post("/greet")
    metrics = client.get("/metrics").text
    assert 'http_requests_total{handler="/greet",method="POST",status="200"} 1' in metrics
    assert 'http_requests_total{handler="/greet",method="POST",status="422"} 1' in metrics
    assert 'http_request_duration_seconds_count{handler="/greet",method="POST"} 2' in metrics
    assert client.head("/healthz").status_code == 200


def test_what_there_is_not(serve):
    client = serve(Small)
    missing = client.get("/gret")
    assert (missing.status_code, missing.headers["location"]) == (307, "/ledoc")
    assert "Did you mean '/greet'?" in missing.json()["error"]
    static = client.get("/static/app.js")
    assert (static.status_code, static.json()) == (404, {"message": "Not Found"})


def test_unknown_paths_do_not_grow_the_metrics(serve):
    photon = Small()
    client = serve(photon)
    for number in range(50):
        client.get(f"/x{number}")
    assert len(photon.app.numbers) == 1


def test_a_token_guards_everything_but_the_probes(serve, monkeypatch):
    monkeypatch.setenv("LEPTON_LOCAL_DEPLOYMENT_TOKEN", "a-token")
    client = serve(Small)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic a-token"},
        {"authorization": "a-token"},
    ):
        for path in ("/greet", "/openapi.json", "/docs", "/metrics", "/nowhere"):
            refused = client.post(path, headers=headers)
            assert (refused.status_code, refused.json()) == (403, {"detail": "Invalid or expired token"})
    assert client.get("/healthz").status_code == 200
    assert client.post("/greet", headers={"authorization": "Bearer a-token"}).json() == "hello you"


def test_cors_is_open_unless_origins_are_named(serve, monkeypatch):
    origin = {"origin": "https://a.example"}
    client = serve(Small)
    assert client.post("/greet", headers=origin).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in client.post("/greet", headers=origin).headers
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = client.options("/greet", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-headers"]) == (200, "content-type")

    monkeypatch.setenv("LEPTON_ALLOW_ORIGINS", "https://a.example")
    client = serve(Small)
    assert client.post("/greet", headers=origin).headers["access-control-allow-origin"] == "https://a.example"
    other = client.post("/greet", headers={"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    assert client.options("/greet", headers={**asked, "origin": "https://b.example"}).status_code == 400


def test_a_network_address_needs_a_token():
    with pytest.raises(Refused, match="token"):
        Small().launch(host="0.0.0.0", port=0)


def test_liveness_on_its_own_port(process, tmp_path):
    from leptonai.util import find_available_port

    port = find_available_port()
    (tmp_path / "live.py").write_text(
        "from leptonai.photon import Photon\n"
        f"class Live(Photon):\n    health_check_liveness_tcp_port = {port}\n"
        "    @Photon.handler\n    def f(self):\n        return 1\n"
    )
    url, _ = process("photon", "runlocal", "-m", tmp_path / "live.py", "-p", 0)
    assert httpx.get(f"http://127.0.0.1:{port}/livez").json() == {"status": "ok"}
    assert httpx.post(f"{url}/f").json() == 1
