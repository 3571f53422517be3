"""Metrics in the format that Prometheus reads, and the numbers of a service that was used."""

import re

from leptonai.photon.metrics import Counter, Histogram

from .conftest import ROW, call


def test_counter_and_labels():
    counter = Counter("c_total", "Text.", ("a",))
    counter.add(2, 'quote " slash \\ line \n')
    assert counter.lines() == [r'c_total{a="quote \" slash \\ line \n"} 2']


def test_histogram_is_cumulative():
    histogram = Histogram("h", "Text.", (1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value)
    assert histogram.lines() == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 12",
        "h_count 4",
    ]


def test_a_service_counts_what_it_does(served):
    request = call(served, "POST", "/predict", {"rows": [ROW] * 3})[1]["request_id"]
    call(served, "POST", "/feedback", {"request_id": request, "label": 1, "comment": "so it is"})
    call(served, "POST", "/predict", b"{")
    call(served, "GET", "/no-such-route/1234")

    status, text, headers = call(served, "GET", "/metrics")

    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    for line in (
        'lepton_requests_total{route="/predict",status="200"} 1',
        'lepton_requests_total{route="/predict",status="400"} 1',
        'lepton_requests_total{route="other",status="404"} 1',
        'lepton_rows_total{model="digits@1"} 3',
        'lepton_feedback_total{kind="label"} 1',
        'lepton_feedback_total{kind="comment"} 1',
        'lepton_request_seconds_count{route="/feedback"} 1',
        "lepton_batch_rows_count 1",
        "lepton_requests_in_flight 1",
        "lepton_rows_waiting 0",
        "lepton_log_failures_total 0",
        'lepton_model_info{model="digits@1",task="tabular-classification"} 1',
    ):
        assert line in text.splitlines(), line
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.e]+|# (HELP|TYPE) [a-z_]+ .+')
    assert all(sample.fullmatch(line) for line in text.splitlines())
