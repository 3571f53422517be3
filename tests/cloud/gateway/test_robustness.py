"""Replicas and workers that are killed, usage facts that are handed over once, tunnels and memory over many requests."""

import os
import signal
import socket
import threading
import time

import httpx
import pytest

from leptonai.cloud.gateway.table import Limits
from leptonai.cloud.gateway.usage import Spool, collect

from .conftest import TOKEN, rss_bytes, wait_for

AUTH = {"authorization": f"Bearer {TOKEN}"}


def test_a_dead_replica_is_passed_over(own_cloud):
    a, b = own_cloud.replica("a"), own_cloud.replica("b")
    own_cloud.serve(a, b)
    with httpx.Client(headers=AUTH) as client:
        for number in range(60):
            if number == 20:
                a.kill()
            assert client.post(f"{own_cloud.url}/ws/echo/", content=b"x").status_code == 200


def test_a_request_that_was_started_is_not_started_twice(own_cloud):
    a = own_cloud.replica("a")
    own_cloud.serve(a)
    before = a.seen()["requests"]
    assert own_cloud.call("/die", "POST").status_code == 502
    assert a.seen()["requests"] == before + 2, "the POST and this question"
    assert own_cloud.call("/die", "GET").status_code == 502
    assert a.seen()["requests"] == before + 6, "a GET may be tried three times"


def test_a_replica_that_comes_back_gets_what_waited(own_cloud):
    a = own_cloud.replica("a")
    own_cloud.serve(a)
    a.kill()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(own_cloud.call("/", "POST", content=b"once").json()))
    thread.start()
    time.sleep(0.7)
    own_cloud.replica("a", a.port)
    thread.join(10)
    assert answers[0]["body"] == "once"


def test_sigterm_finishes_what_is_open(own_cloud):
    own_cloud.serve(own_cloud.replica("a"))
    found = []

    def stream():
        with httpx.stream("GET", f"{own_cloud.url}/ws/echo/stream?n=10&gap=0.1", headers=AUTH, timeout=20) as answer:
            found.append(answer.read())

    thread = threading.Thread(target=stream)
    thread.start()
    wait_for(lambda: own_cloud.traffic().endpoint("ws/echo").in_flight == 1)
    own_cloud.worker.send_signal(signal.SIGTERM)
    thread.join(10)
    assert found[0].endswith(b"data: 9\n\n")
    assert own_cloud.worker.wait(10) == 0


def test_workers_share_a_port_and_one_may_die(own_cloud):
    own_cloud.serve(own_cloud.replica("a"))
    first, port = own_cloud.worker, own_cloud.port
    own_cloud.start_worker(port, "w1")
    wait_for(lambda: {one.table for one in own_cloud.traffic().reports} == {own_cloud.version})
    assert all(own_cloud.call().status_code == 200 for _ in range(20))
    first.kill()
    first.wait()
    assert all(own_cloud.call().status_code == 200 for _ in range(20))
    own_cloud.start_worker(port, "w0")
    assert own_cloud.call().status_code == 200


def test_every_answer_is_a_fact_once_although_the_worker_is_killed(own_cloud):
    own_cloud.serve(own_cloud.replica("a"), limits=Limits(hold_s=5))
    ledger, calls = {}, 0
    usage = own_cloud.folder / "usage"

    def deliver(facts):
        ledger.update({fact.id: fact for fact in facts})

    for _ in range(3):
        with httpx.Client(headers=AUTH) as client:
            for _ in range(50):
                assert client.post(f"{own_cloud.url}/ws/echo/", content=b"abc").status_code == 200
                calls += 1
        own_cloud.worker.kill()
        own_cloud.worker.wait()
        own_cloud.start_worker(own_cloud.port)
        collect(usage, deliver)
    assert own_cloud.call(token="wrong").status_code == 401
    assert len(ledger) == calls
    fact = next(iter(ledger.values()))
    assert (fact.workspace, fact.endpoint, fact.revision, fact.replica, fact.caller) == ("ws", "echo", "r1", "a", "t1")
    assert fact.status == 200 and fact.bytes_in == 3 and fact.bytes_out > 3


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


def test_many_requests_leave_nothing_behind(cloud):
    cloud.serve(cloud.a)
    one = b"GET /ws/echo/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    files = lambda: len(os.listdir(f"/proc/{cloud.worker.pid}/fd"))  # noqa: E731

    def burst(requests):
        with socket.create_connection(("127.0.0.1", cloud.port)) as connection:
            for _ in range(requests // 50):
                connection.sendall(one * 50)
                found = b""
                while found.count(b"HTTP/1.1 200") < 50 or not found.endswith(b"}"):
                    found += connection.recv(1 << 20)

    burst(2000)
    before, open_before = rss_bytes(cloud.worker.pid), files()
    burst(10_000)
    time.sleep(2.5)
    assert rss_bytes(cloud.worker.pid) - before < 2e6
    assert files() <= open_before + 2
