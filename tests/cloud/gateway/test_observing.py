"""Traces and the access log: off they cost nothing, on they tell of each request under one id. The collector here is a real receiver."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from leptonai.cloud.gateway.accesslog import AccessLog
from leptonai.cloud.gateway.table import Access

from .conftest import Cloud, wait_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector():
    """Takes OTLP over HTTP (protobuf); `spans` are those received."""
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    spans.extend((names["service.name"], span) for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.spans = spans
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def observed(tmp_path, monkeypatch, collector):
    """A worker with traces and the access log on."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("LEPTON_ACCESS_LOG", "1")
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    cloud.close()


def attributes(span) -> dict:
    kinds = ("string_value", "int_value")
    return {one.key: getattr(one.value, next(k for k in kinds if one.value.HasField(k))) for one in span.attributes}


def test_a_span_per_request_joins_client_and_replica(observed, collector):
    observed.serve(observed.replica("a"))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "x-request-id": "mine-1"}
    answer = observed.call("/one?secret=2", headers=headers)
    sent = {name.lower(): value for name, value in answer.json()["headers"]}
    observed.call("/two?status=503", "POST")
    wait_for(lambda: len(collector.spans) == 2, what="two spans at the collector")

    (service, first), (_, second) = sorted(collector.spans, key=lambda one: one[1].start_time_unix_nano)
    assert service == "lepton-gateway" and first.name == "GET ws/echo"
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT), "a child of the client's span"
    assert sent["traceparent"] == f"00-{TRACE}-{first.span_id.hex()}-01" and sent["tracestate"] == "vendor=1"
    seen = attributes(first)
    assert seen["lepton.request_id"] == "mine-1" and seen["http.response.status_code"] == 200
    assert seen["url.path"] == "/ws/echo/one" and seen["lepton.replica"] == "a" and seen["lepton.caller"] == "t1"
    assert first.end_time_unix_nano > first.start_time_unix_nano and first.status.code == 0
    assert second.trace_id.hex() != TRACE and not second.parent_span_id and second.status.code == 2


def test_the_access_log_has_a_line_for_each_request(observed):
    observed.serve(observed.replica("a"))
    first = observed.call("/one?secret=2", "POST", content=b"abc", headers={"x-request-id": "mine-1"})
    refused = observed.call("/two", token="wrong")
    path = observed.folder / "gateway" / "access-w0.jsonl"
    wait_for(lambda: path.exists() and path.read_text().count("\n") == 2, what="two lines")
    one, two = map(json.loads, path.read_text().splitlines())
    assert one["request_id"] == first.headers["x-request-id"] == "mine-1"
    assert two["request_id"] == refused.headers["x-request-id"] and two["status"] == 401
    told = {name: one[name] for name in ("method", "path", "status", "endpoint", "caller", "revision", "replica")}
    assert told == {
        "method": "POST", "path": "/ws/echo/one", "status": 200, "endpoint": "ws/echo", "caller": "t1", "revision": "r1", "replica": "a",
    }  # fmt: skip
    assert one["bytes_in"] == 3 and one["bytes_out"] > 0 and one["duration_ms"] > 0 and one["client"] == "127.0.0.1"
    assert "secret" not in path.read_text() and "a-token" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_off_nothing_is_loaded_written_or_changed(cloud):
    """The client's own context goes to the replica as it came."""
    cloud.serve(cloud.a, access=Access(public=True))
    answer = cloud.call(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert ["traceparent", f"00-{TRACE}-{PARENT}-01"] in answer.json()["headers"]
    assert not list((cloud.folder / "gateway").glob("access-*"))
    code = (
        "import sys; from leptonai.cloud.gateway import worker; "
        "print(worker.Tracing.from_environment('w0'), 'opentelemetry' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    assert found.stdout == "None False\n"


def test_a_machine_without_the_packages_says_what_to_install(tmp_path, monkeypatch):
    from leptonai.base.errors import Unavailable
    from leptonai.cloud.gateway.tracing import Tracing

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Unavailable, match=r"lepton-platform\[otel\]"):
        Tracing.from_environment("w0")


def test_a_share_of_the_requests_and_a_file_that_does_not_grow_for_ever(tmp_path, monkeypatch):
    from leptonai.base.errors import InvalidInput
    from leptonai.cloud.gateway import accesslog

    monkeypatch.setenv("LEPTON_ACCESS_LOG", "0.25")
    log = AccessLog.from_environment(tmp_path, "w0")
    assert 150 < sum(log._wanted() for _ in range(1000)) < 350
    monkeypatch.setattr(accesslog, "ROTATE_BYTES", 100)
    for number in range(3):
        log.write([b"%d" % number * 120])
    assert (tmp_path / "access-w0.jsonl.1").read_bytes() == b"2" * 120 + b"\n"
    assert not (tmp_path / "access-w0.jsonl").exists()
    monkeypatch.setenv("LEPTON_ACCESS_LOG", "all")
    with pytest.raises(InvalidInput, match="0 to 1"):
        AccessLog.from_environment(tmp_path, "w0")
    monkeypatch.delenv("LEPTON_ACCESS_LOG")
    assert AccessLog.from_environment(tmp_path, "w0") is None
