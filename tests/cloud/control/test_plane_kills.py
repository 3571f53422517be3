"""SIGKILL of a real `lep up` in the middle of rollouts and jobs: the small form of bench/plane_kills.py."""

import pytest

pytest.importorskip("uvicorn")

from bench.plane_kills import measure


@pytest.mark.parametrize(("kills", "rate"), [(4, 40.0), pytest.param(20, 100.0, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_doubled_and_no_request_fails(tmp_path, kills, rate):
    found = measure(tmp_path / "home", kills=kills, rate=rate, seed=kills)
    print(found)
    assert not found.void, "a run with less than 80 % of its load says nothing"
    assert (found.lost, found.doubled, found.unfinished, found.replicas_left_over) == (0, 0, 0, 0)
    assert found.failed == 0 and found.jobs == kills
