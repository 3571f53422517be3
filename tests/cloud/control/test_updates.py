"""Rolling updates of a real `lep up` under load: the small form of bench/rollout.py."""

import pytest

pytest.importorskip("uvicorn")

from bench.rollout import measure


@pytest.mark.parametrize(
    ("updates", "rate", "replicas", "requests"),
    [(2, 50.0, 2, 900), pytest.param(5, 200.0, 4, 20_000, marks=pytest.mark.slow)],
)
def test_no_request_fails_while_revisions_change(tmp_path, updates, rate, replicas, requests):
    found = measure(tmp_path / "home", updates=updates, rate=rate, replicas=replicas, requests=requests)
    print(found)
    assert not found.void, "a run with less than 80 % of its load says nothing"
    assert found.failed == 0 and found.answered >= 0.8 * requests
