"""The tests of the tests: each check of checks.py fails on a worker that has the defect which it is there to find."""

import httpx
import pytest

from leptonai.cloud.gateway import usage

from . import checks
from .conftest import Cloud
from .test_robustness import CHECKS
from .test_robustness import test_a_ledger_that_fails_gets_the_same_facts_again as ledger_test
from .test_robustness import test_facts_are_durable_before_they_are_offered as durable_test

TEETH = {
    "never_tries_again": checks.a_dead_replica_is_passed_over,
    "always_tries_again": checks.a_request_that_was_started_is_not_started_twice,
    "has_no_patience": checks.a_replica_that_comes_back_gets_what_waited,
    "uses_draining_replicas": checks.a_draining_replica_gets_nothing_new,
    "skips_the_drain": checks.sigterm_finishes_what_is_open,
    "keeps_facts_in_memory": checks.every_answer_is_a_fact_once_although_the_worker_is_killed,
    "answers_before_it_records": checks.every_answer_is_a_fact_once_although_the_worker_is_killed,
    "serves_what_it_cannot_record": checks.a_full_disk_turns_requests_away_and_loses_no_fact,
    "forgets_the_disk_is_full": checks.a_full_disk_turns_requests_away_and_loses_no_fact,
    "reads_on_for_slow_clients": checks.a_slow_reader_holds_its_replica_back,
    "lets_replicas_work_for_nobody": checks.a_client_that_leaves_ends_the_work,
    "believes_the_length": checks.a_request_framed_in_two_ways_is_refused,
    "takes_the_last_credential": checks.a_doubled_credential_is_refused,
    "lets_every_caller_in": checks.a_token_is_asked_for,
    "serves_who_came_first": checks.slow_clients_keep_out_nobody,
    "counts_for_itself": checks.two_workers_have_one_limit,
    "keeps_every_exchange": checks.nothing_is_left_behind,
    "loses_connections": checks.nothing_is_left_behind,
    "forgets_routes_it_cannot_read": checks.a_table_that_cannot_be_read_changes_nothing,
}


@pytest.mark.parametrize("defect", TEETH)
def test_the_check_finds_the_defect(defect, tmp_path):
    cloud = Cloud(tmp_path / "cloud", files=400 if defect == "serves_who_came_first" else None, bad=defect)
    try:
        with pytest.raises((AssertionError, httpx.HTTPError, OSError)) as found:
            TEETH[defect](cloud)
        print(f"{defect}: {found.value!r:.150}")
    finally:
        cloud.close()


def test_every_check_has_a_defect_that_it_finds():
    assert set(CHECKS) <= set(TEETH.values())


def test_a_collector_that_deletes_first_is_found(tmp_path, monkeypatch):
    collect = usage.collect

    def deletes_first(root, deliver):
        def late(facts):
            for path in root.rglob("*.jsonl"):
                path.unlink()
            deliver(facts)

        return collect(root, late)

    monkeypatch.setitem(ledger_test.__globals__, "collect", deletes_first)
    with pytest.raises(AssertionError):
        ledger_test(tmp_path)


def test_a_dropped_fsync_is_found(tmp_path, monkeypatch):
    import os

    def seal(self):
        self.memory.close()
        with open(self.path, "r+b") as file:
            os.ftruncate(file.fileno(), self.end)
        os.rename(self.path, self.path.with_suffix(".jsonl"))

    monkeypatch.setattr(usage.Segment, "seal", seal)
    with pytest.raises(AssertionError):
        durable_test(tmp_path, monkeypatch)
