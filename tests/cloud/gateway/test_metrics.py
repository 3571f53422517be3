"""What a scraper sees: counts of endpoints and keys by name for those who may, totals for everybody."""

import re

import pytest

pytest.importorskip("sqlalchemy")

from leptonai.cloud.gateway.metrics import render
from leptonai.cloud.gateway.table import Access, Limits, Token, hash_token

from ..api.conftest import Server
from .conftest import TOKEN, wait_for


def values(text: str, name: str, **labels: str) -> list[float]:
    """Of every sample of the family `name` that has these labels."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name and all(f'{key}="{value}"' in (match[2] or "") for key, value in labels.items()):
            found.append(float(match[3]))
    return found


@pytest.fixture(scope="module")
def measured(cloud):
    """An endpoint `measured`: two answers and one error by token t1, three requests by t2, of which its limit lets one through."""
    few = Token("t2", hash_token("few"), requests_per_minute=1)
    access = Access(public=True, tokens=(Token("t1", hash_token(TOKEN)), few))
    cloud.serve(cloud.a, name="measured", access=access, limits=Limits())
    ask = lambda path="/", token=TOKEN: cloud.call(path, "POST", endpoint="measured", token=token, content=b"12345")  # noqa: E731
    assert [ask().status_code, ask().status_code, ask("/?status=503").status_code] == [200, 200, 503]
    assert [ask(token="few").status_code for _ in range(3)] == [200, 429, 429]
    assert ask(token=None).status_code == 200
    seen = lambda: cloud.traffic().endpoint("ws/measured").revisions.get("r1")  # noqa: E731
    wait_for(lambda: seen() and seen().requests == 5, what="the report of five requests")
    return cloud


def test_each_endpoint_and_each_key_is_counted(measured):
    text = render(measured.traffic())
    labels = {"worker": "w0", "workspace": "ws", "endpoint": "measured"}
    assert values(text, "lepton_endpoint_requests_total", **labels, revision="r1", status="2xx") == [4]
    assert values(text, "lepton_endpoint_requests_total", **labels, revision="r1", status="5xx") == [1]
    assert values(text, "lepton_endpoint_errors_total", **labels) == [1]
    assert values(text, "lepton_endpoint_latency_seconds_count", **labels) == [5]
    buckets = values(text, "lepton_endpoint_latency_seconds_bucket", **labels)
    assert buckets == sorted(buckets) and buckets[-1] == 5
    assert values(text, "lepton_endpoint_in_flight", **labels) == [0]
    assert values(text, "lepton_endpoint_held", **labels) == [0]
    by_key = {key: values(text, "lepton_key_requests_total", **labels, key=key) for key in ("t1", "t2", "")}
    assert by_key == {"t1": [3], "t2": [1], "": [1]}
    assert values(text, "lepton_key_errors_total", **labels, key="t1") == [1]
    assert values(text, "lepton_key_limited_total", **labels, key="t2") == [2]
    assert values(text, "lepton_key_bytes_in_total", **labels, key="t1") == [15]
    assert values(text, "lepton_gateway_refused_total", status="429") == [2]
    families = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert len(families) == len(set(families)) >= 15, "a family is declared once"


def test_the_plane_tells_names_to_those_who_may_see_them(measured, tmp_path):
    server = Server(tmp_path)
    (tmp_path / "cloud").mkdir(exist_ok=True)
    (tmp_path / "cloud" / "traffic").symlink_to(measured.folder / "traffic")
    try:
        seen = {
            who: server.call("GET", f"/metrics{query}", key=key)
            for who, key, query in (
                ("nobody", None, ""),
                ("operator", server.operator, ""),
                ("foreign", server.foreign, "?workspace=other"),
                ("stranger", "lep_wrong", ""),
                ("climber", server.foreign, ""),
            )
        }
        assert {who: one.status_code for who, one in seen.items()} == {
            "nobody": 200, "operator": 200, "foreign": 200, "stranger": 401, "climber": 404,
        }  # fmt: skip
        assert {who for who, one in seen.items() if "measured" in one.text} == {"operator"}
        for who in ("nobody", "operator", "foreign"):
            assert values(seen[who].text, "lepton_gateway_requests_total", worker="w0")[0] >= 5
            assert values(seen[who].text, "lepton_gateway_in_flight", worker="w0") == [0]
            assert "lepton_api_requests_total" in seen[who].text
    finally:
        server.close()
