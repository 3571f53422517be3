"""What must hold of a worker whatever happens, each as a function of a `Cloud`. test_robustness.py runs them on workers as they are,
test_teeth.py on workers with a defect, where each must fail."""

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter

import httpx

from leptonai.cloud.gateway.table import Access, Limits, Replica, Token, hash_token
from leptonai.cloud.gateway.usage import collect

from .conftest import TOKEN, files_of, rss_bytes, wait_for

AUTH = {"authorization": f"Bearer {TOKEN}"}
HEAD = b"host: x\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n"
ONE = b"GET /ws/echo/ HTTP/1.1\r\n" + HEAD + b"\r\n"


def a_dead_replica_is_passed_over(cloud):
    a, b = cloud.replica("a"), cloud.replica("b")
    cloud.serve(a, b)
    with httpx.Client(headers=AUTH) as client:
        for number in range(60):
            if number == 20:
                a.kill()
            assert client.post(f"{cloud.url}/ws/echo/", content=b"x").status_code == 200


def a_request_that_was_started_is_not_started_twice(cloud):
    a = cloud.replica("a")
    cloud.serve(a)
    before = a.seen()["requests"]
    assert cloud.call("/die", "POST").status_code == 502
    assert a.seen()["requests"] == before + 2, "the POST and this question"
    assert cloud.call("/die", "GET").status_code == 502
    assert a.seen()["requests"] == before + 6, "a GET may be tried three times"


def a_replica_that_comes_back_gets_what_waited(cloud):
    a = cloud.replica("a")
    cloud.serve(a)
    a.kill()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(cloud.call("/", "POST", content=b"once").json()))
    thread.start()
    time.sleep(0.7)
    cloud.replica("a", a.port)
    thread.join(10)
    assert answers[0].get("body") == "once"


def a_draining_replica_gets_nothing_new(cloud):
    a, b = cloud.replica("a"), cloud.replica("b")
    cloud.serve(Replica("a", a.route.address, draining=True), b)
    assert Counter(cloud.call().json()["replica"] for _ in range(20)) == {"b": 20}


def sigterm_finishes_what_is_open(cloud):
    cloud.serve(cloud.replica("a"))
    found = []

    def stream():
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", f"{cloud.url}/ws/echo/stream?n=10&gap=0.1", headers=AUTH, timeout=20) as answer,
        ):
            found.append(answer.read())

    thread = threading.Thread(target=stream)
    thread.start()
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 1)
    cloud.worker.send_signal(signal.SIGTERM)
    thread.join(10)
    assert found and found[0].endswith(b"data: 9\n\n")
    assert cloud.worker.wait(10) == 0


def every_answer_is_a_fact_once_although_the_worker_is_killed(cloud):
    cloud.serve(cloud.replica("a"), limits=Limits(hold_s=5))
    ledger, calls = {}, 0

    def deliver(facts):
        for fact in facts:
            assert fact.id not in ledger, "an id is given once"
            ledger[fact.id] = fact

    for _ in range(3):
        with httpx.Client(headers=AUTH) as client:
            for _ in range(50):
                assert client.post(f"{cloud.url}/ws/echo/", content=b"abc").status_code == 200
                calls += 1
            cloud.worker.kill()  # at once: the answer to the last call has just come
        cloud.worker.wait()
        cloud.start_worker(cloud.port)
        collect(cloud.folder / "usage", deliver)
    assert cloud.call(token="wrong").status_code == 401
    assert len(ledger) == calls, f"{len(ledger)} facts of {calls} answers"
    fact = next(iter(ledger.values()))
    assert (fact.workspace, fact.endpoint, fact.revision, fact.replica, fact.caller) == ("ws", "echo", "r1", "a", "t1")
    assert fact.status == 200 and fact.bytes_in == 3 and fact.bytes_out > 3


def burst(cloud, requests: int, path: bytes = b"/ws/echo/") -> Counter:
    """Requests one behind the other on one connection, fifty at a time; the statuses."""
    one = b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"\r\n"
    found = Counter()
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=20) as connection:
        for _ in range(requests // 50):
            connection.sendall(one * 50)
            data = b""
            while data.count(b"HTTP/1.1 ") < 50 or not data.endswith(b"}"):
                part = connection.recv(1 << 20)
                assert part, "the connection was closed"
                data += part
            found.update(piece[:3].decode() for piece in data.split(b"HTTP/1.1 ")[1:])
    return found


def a_full_disk_turns_requests_away_and_loses_no_fact(cloud):
    """The worker may write no file larger than 64 kB for a while, so it can make no segment; then it may again."""
    cloud.serve(cloud.replica("a"))
    ledger = {}
    resource.prlimit(cloud.worker.pid, resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    found = Counter()
    for _ in range(14):
        found += burst(cloud, 1000, b"/ws/echo/" + b"?" * 10)
        if found["503"]:
            break
    assert found["503"], f"nothing was turned away: {found}"
    assert cloud.call().json()["message"].startswith("the gateway's disk is full")
    resource.prlimit(cloud.worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: cloud.call().status_code == 200, what="an answer after there is room again")
    cloud.worker.kill()
    cloud.worker.wait()
    collect(cloud.folder / "usage", lambda facts: ledger.update({fact.id: fact for fact in facts}))
    print(f"full disk: {dict(found)}, {len(ledger)} facts")
    assert sum(fact.status == 200 for fact in ledger.values()) == found["200"] + 1


def a_slow_reader_holds_its_replica_back(cloud):
    cloud.serve(cloud.replica("a"))
    before = rss_bytes(cloud.worker.pid)
    with httpx.stream("GET", f"{cloud.url}/ws/echo/bytes?n=200000000", headers=AUTH, timeout=60) as answer:
        parts = answer.iter_raw()
        next(parts)
        time.sleep(0.4)  # the replica would have sent it all by now, if nothing held it back
        assert rss_bytes(cloud.worker.pid) - before < 20e6
        assert sum(map(len, parts)) > 199_000_000


def a_client_that_leaves_ends_the_work(cloud):
    a = cloud.replica("a")
    cloud.serve(a)
    with httpx.stream("GET", f"{cloud.url}/ws/echo/stream?n=1000&gap=0.02", headers=AUTH) as answer:
        next(answer.iter_raw())
    wait_for(lambda: a.seen()["cut"] == 1, 3, "the end of the replica's work")


def a_request_framed_in_two_ways_is_refused(cloud):
    cloud.serve(cloud.replica("a"))
    hidden = b"GET /ws/echo/smuggled HTTP/1.1\r\n" + HEAD + b"\r\n"
    head = b"POST /ws/echo/ HTTP/1.1\r\n" + HEAD + b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n"
    found = cloud.raw(head % (5 + len(hidden)) + b"0\r\n\r\n" + hidden)
    assert found.startswith(b"HTTP/1.1 400") and found.count(b"HTTP/1.1") == 1


def a_doubled_credential_is_refused(cloud):
    cloud.serve(cloud.replica("a"))
    found = cloud.raw(b"GET /ws/echo/ HTTP/1.1\r\nauthorization: Bearer wrong\r\n" + HEAD + b"\r\n")
    assert found.startswith(b"HTTP/1.1 400"), found


def a_token_is_asked_for(cloud):
    cloud.serve(cloud.replica("a"))
    assert [cloud.call(token=token).status_code for token in (None, "wrong", TOKEN)] == [401, 401, 200]


def slow_clients_keep_out_nobody(cloud):
    """`cloud` has room for 136 connections; 300 clients send half a head."""
    cloud.serve(cloud.replica("a"))
    heads = [socket.create_connection(("127.0.0.1", cloud.port)) for _ in range(300)]
    for connection in heads:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /ws/echo/ HTTP/1.1\r\nx-slow: ")
    try:
        assert Counter(cloud.call().status_code for _ in range(50)) == {200: 50}
    finally:
        for connection in heads:
            connection.close()


def two_workers_have_one_limit(cloud):
    access = Access(tokens=(Token("t1", hash_token(TOKEN), requests_per_minute=120),))
    cloud.start_worker(cloud.port, "w1")
    cloud.serve(cloud.replica("a"), access=access)
    wait_for(lambda: {one.table for one in cloud.traffic().reports} == {cloud.version}, what="both workers")
    began = time.monotonic()
    found = Counter(cloud.call().status_code for _ in range(60))
    most = 20 + 2 * (time.monotonic() - began) + 1
    assert 20 <= found[200] <= most, f"{found}, of which at most {most:.0f} are 200"


def nothing_is_left_behind(cloud, requests: int = 2_500) -> dict[str, float]:
    """Memory and files after many requests, as before them; returns what grew."""
    cloud.serve(cloud.replica("a"), limits=Limits(requests_per_minute=10**8))
    pid = cloud.worker.pid
    burst(cloud, 500)
    for _ in range(50):
        cloud.call()
    memory, files = rss_bytes(pid), files_of(pid)
    burst(cloud, requests)
    for _ in range(50):
        cloud.call()
    wait_for(lambda: files_of(pid) <= files + 2, 4, "as few open files as before")
    grown = rss_bytes(pid) - memory
    assert grown < max(2e6, 10 * requests), f"{grown} bytes more after {requests} requests"
    return {"memory": grown, "files": files_of(pid) - files}


def a_table_that_cannot_be_read_changes_nothing(cloud):
    cloud.serve(cloud.replica("a"))
    bad_network = b'{"endpoints": [{"workspace": "ws", "name": "x", "access": {"allow": ["no-net"]}}]}'
    for text in (b"{", b'{"format": 2}', bad_network):
        (cloud.folder / "routes.json").write_bytes(text)
        time.sleep(0.2)
        assert cloud.call().status_code == 200
    os.unlink(cloud.folder / "routes.json")
    time.sleep(0.2)
    assert cloud.call().status_code == 200
