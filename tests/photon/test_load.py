"""`lep photon bench` and the load behind it, against real services: one that answers, one that refuses, one that is not there."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from leptonai.base.errors import InvalidInput, Unavailable
from leptonai.cli.photon_bench import bench
from leptonai.photon.load import Target, closed, steady

from .conftest import ROW

JSON = {"content-type": "application/json"}


def test_bench_finds_the_route_and_an_example_by_itself(served):
    done = CliRunner().invoke(
        bench, [served.url, "--seconds", "0.5", "--concurrency", "1,4", "--json"], catch_exceptions=False
    )
    rows = json.loads(done.stdout)

    assert [row["concurrency"] for row in rows] == [1, 4]
    assert all(row["requests_per_s"] > 0 and row["errors"] == {} and row["p50_ms"] <= row["p99_ms"] for row in rows)


def test_errors_are_counted_and_are_no_answers(served):
    done = CliRunner().invoke(
        bench,
        [f"{served.url}/predict", "--data", "{}", "--seconds", "0.3", "--concurrency", "2", "--json"],
        catch_exceptions=False,
    )
    (row,) = json.loads(done.stdout)

    assert row["requests_per_s"] == 0 and set(row["errors"]) == {"400"} and row["p50_ms"] is None


def test_an_open_loop_sends_what_is_due(served):
    target = Target.of(f"{served.url}/predict", method="POST", body=json.dumps(ROW).encode(), headers=JSON)
    load = asyncio.run(steady(target, 100, 1.0))

    assert load.statuses == {200: 100}


def test_nothing_is_there():
    with pytest.raises(Unavailable, match="nothing answers"):
        asyncio.run(closed(Target.of("http://127.0.0.1:9/"), 1, 0.1))


@pytest.mark.parametrize("headers", [{"x": "a\r\ny: b"}, {"x\n": "a"}])
def test_a_header_cannot_end_the_headers(headers):
    with pytest.raises(InvalidInput):
        Target.of("http://localhost/", headers=headers)
