"""Replicas and workers that are killed, usage facts that are handed over once, memory over many requests: checks.py on real workers."""

import contextlib
import os

import pytest

from leptonai.cloud.gateway import usage
from leptonai.cloud.gateway.usage import Segment, Spool, close_segments, collect

from . import checks
from .conftest import Cloud

CHECKS = (
    checks.a_dead_replica_is_passed_over,
    checks.a_request_that_was_started_is_not_started_twice,
    checks.a_replica_that_comes_back_gets_what_waited,
    checks.a_draining_replica_gets_nothing_new,
    checks.sigterm_finishes_what_is_open,
    checks.every_answer_is_a_fact_once_although_the_worker_is_killed,
    checks.a_full_disk_turns_requests_away_and_loses_no_fact,
    checks.a_slow_reader_holds_its_replica_back,
    checks.a_client_that_leaves_ends_the_work,
    checks.a_request_framed_in_two_ways_is_refused,
    checks.a_doubled_credential_is_refused,
    checks.a_token_is_asked_for,
    checks.two_workers_have_one_limit,
    checks.nothing_is_left_behind,
    checks.a_table_that_cannot_be_read_changes_nothing,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_holds(check, own_cloud):
    check(own_cloud)


def test_slow_clients_keep_out_nobody(tmp_path):
    cloud = Cloud(tmp_path / "cloud", files=400)
    try:
        checks.slow_clients_keep_out_nobody(cloud)
    finally:
        cloud.close()


@pytest.mark.slow
def test_two_hundred_thousand_requests_leave_nothing_behind(own_cloud):
    """The leak gate: at most 1 MB of memory per 100,000 requests, open files as before."""
    grown = checks.nothing_is_left_behind(own_cloud, 200_000)
    print(f"200,000 requests: {grown['memory'] / 1e6:.2f} MB of memory and {grown['files']} open files more")
    assert grown["memory"] <= 2e6 and grown["files"] <= 2


def test_a_ledger_that_fails_gets_the_same_facts_again(tmp_path):
    spool = Spool(tmp_path / "usage" / "w0")
    for number in range(3):
        spool.add(0.0, "ws", "echo", "1", "a", "me", f"id-{number}", 200, 1.0, 0, 0)
    spool.rotate()()
    seen = []

    def fails_after_commit(facts):
        seen.append([fact.id for fact in facts])
        if len(seen) == 1:
            raise RuntimeError("killed between the commit and the deletion")

    with pytest.raises(RuntimeError):
        collect(tmp_path / "usage", fails_after_commit)
    assert collect(tmp_path / "usage", fails_after_commit) == 3
    assert collect(tmp_path / "usage", fails_after_commit) == 0
    assert seen[0] == seen[1] and len(set(seen[0])) == 3
    spool.close()


def test_what_a_live_worker_writes_is_left_alone_and_a_torn_line_is_dropped(tmp_path):
    folder = tmp_path / "usage" / "w0"
    spool = Spool(folder)
    spool.add(0.0, "ws", "echo", "1", "a", "me", "id", 200, 1.0, 0, 0)
    assert collect(tmp_path / "usage", lambda facts: None) == 0
    spool._lock.close()  # as the system does for a process that was killed
    (open_file,) = folder.glob("*.open")
    open_file.write_bytes(open_file.read_bytes() + b'{"id": "torn')
    assert collect(tmp_path / "usage", lambda facts: None) == 1


def test_facts_are_durable_before_they_are_offered(tmp_path, monkeypatch):
    """The order of system calls: a segment is cut and fsynced, then renamed, then its folder is fsynced."""
    done = []
    for name in ("ftruncate", "fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *values, real=real, name=name: (done.append(name), real(*values))[1])
    spool = Spool(tmp_path / "usage" / "w0")
    spool.add(0.0, "ws", "echo", "1", "a", "me", "id", 200, 1.0, 0, 0)
    spool.rotate()()
    assert done == ["ftruncate", "fsync", "rename", "fsync"]
    spool.close()


def test_holes_that_a_power_failure_leaves_cost_only_the_facts_in_them(tmp_path):
    spool = Spool(tmp_path / "usage" / "w0")
    for number in range(100):
        spool.add(0.0, "ws", "echo", "1", "a", "me", f"id-{number}", 200, 1.0, 0, 0)
    (path,) = [one for one in spool.folder.glob("*.open") if one.read_bytes().strip(b"\0")]
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    start = sum(map(len, lines[:10])) + 5
    spool._lock.close()  # as the system does for a process that is gone
    path.write_bytes(data[:start] + bytes(1000) + data[start + 1000 :])
    seen = []
    collect(tmp_path / "usage", seen.extend)
    assert [fact.request_id for fact in seen[:10]] == [f"id-{number}" for number in range(10)]
    assert 90 < len(seen) < 100 and len({fact.id for fact in seen}) == len(seen)
    assert not list(spool.folder.glob("*.open"))


def test_a_segment_that_is_full_makes_room_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "SEGMENT_BYTES", 4096)
    monkeypatch.setattr(usage, "LOW_BYTES", 512)
    spool = Spool(tmp_path / "usage" / "w0")
    for number in range(500):
        assert spool.ready
        spool.add(0.0, "ws", "echo", "1", "a", "me", f"id-{number}", 200, 1.0, 0, 0)
    spool.close()
    seen = []
    assert collect(tmp_path / "usage", seen.extend) == 500
    assert [fact.request_id for fact in seen] == [f"id-{number}" for number in range(500)]
    assert len({fact.id for fact in seen}) == 500


def test_a_worker_that_dies_between_two_lines_of_sealing_loses_and_doubles_nothing(tmp_path, monkeypatch):
    """Cut `close_segments` off at each of its steps, then run it again."""
    for step in range(6):
        folder = tmp_path / str(step) / "w0"
        folder.mkdir(parents=True)
        segment = Segment(folder)
        segment.put(usage.msgspec.json.encode(usage.Fact("id-1", 0.0, "ws", "e", "", "", "", "", 200, 1.0, 0, 0)))
        calls = 0

        def dies(*values, real, step=step):
            nonlocal calls
            calls += 1
            if calls == step:
                raise KeyboardInterrupt
            return real(*values)

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (os, "unlink")):
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *values, real=real: dies(*values, real=real))
            with contextlib.suppress(KeyboardInterrupt):
                close_segments(folder)
        close_segments(folder)
        (folder / "lock").touch()
        ids = {}
        collect(folder.parent, lambda facts, ids=ids: ids.update({fact.id: fact for fact in facts}))
        assert list(ids) == ["id-1"], f"cut at step {step}"
