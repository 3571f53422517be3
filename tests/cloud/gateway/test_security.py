"""The rows of the security table that are the gateway's, with counts: S8, S46, S48, S49, S53 (S54 is test_smuggling.py)."""

import contextlib
import socket
import time
from collections import Counter

import pytest

from leptonai.cloud.gateway.bodies import MANY_CHUNKS
from leptonai.cloud.gateway.table import Access, Key, Limits, Token, hash_token

from .conftest import TOKEN, Cloud, cpu_s, rss_bytes, wait_for

AUTH = b"authorization: Bearer " + TOKEN.encode() + b"\r\n"


def request(headers: bytes = AUTH, first: bytes = b"GET /ws/echo/ HTTP/1.1", body: bytes = b"") -> bytes:
    return first + b"\r\nhost: x\r\n" + headers + b"\r\n" + body


POST = b"POST /ws/echo/ HTTP/1.1"
CHUNKED = b"transfer-encoding: chunked\r\n"
DOUBLED = {
    "the same twice": request(AUTH * 2),
    "good, then wrong": request(AUTH + b"authorization: Bearer wrong\r\n"),
    "wrong, then good": request(b"authorization: Bearer wrong\r\n" + AUTH),
    "another spelling": request(AUTH + AUTH.replace(b"authorization", b"AuThOrIzAtIoN")),
    "apart from each other": request(AUTH + b"x-a: 1\r\nx-b: 2\r\n" + AUTH),
    "an empty one beside it": request(AUTH + b"authorization:\r\n"),
    "a basic one beside it": request(AUTH + b"authorization: Basic eDp5\r\n"),
    "with a body": request(AUTH * 2 + b"content-length: 3\r\n", POST, b"abc"),
    "chunked": request(AUTH * 2 + CHUNKED, POST, b"3\r\nabc\r\n0\r\n\r\n"),
    "HTTP/1.0": request(AUTH * 2, b"GET /ws/echo/ HTTP/1.0"),
    "an upgrade": request(AUTH * 2 + b"connection: upgrade\r\nupgrade: websocket\r\n"),
    "second of two requests": request() + request(AUTH * 2),
}


def test_s8_a_doubled_credential_is_400_in_every_form(cloud):
    """One rule, public endpoint or not: two `Authorization` headers are no request."""
    answers = Counter()
    for access in (Access(tokens=(Token("t1", hash_token(TOKEN)),)), Access(public=True)):
        cloud.serve(cloud.a, access=access)
        before = cloud.a.seen()["requests"]
        for kind, data in DOUBLED.items():
            found = cloud.raw(data)
            answers[
                found.split(b" ", 2)[1] if kind != "second of two requests" else found.rsplit(b"HTTP/1.1 ")[-1][:3]
            ] += 1
            assert b"connection: close" in found and not found.endswith(b"<still open>"), kind
        assert cloud.a.seen()["requests"] == before + 2, "the good one before a bad one, and this question"
    print(f"S8: {len(DOUBLED)} forms, public and not: {dict(answers)}")
    assert answers == {b"400": 2 * len(DOUBLED)}


def test_s8_what_is_not_http_1_is_no_way_round(cloud):
    cloud.serve(cloud.a)
    assert cloud.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 505")
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    assert cloud.raw(request(upgrade)).startswith(b"HTTP/1.1 401"), "without a token, whatever it offers"
    assert b"http2-settings" not in cloud.raw(request(AUTH + upgrade)).lower()
    assert cloud.raw(request(b"authorization: Bearer a, Bearer " + TOKEN.encode() + b"\r\n")).startswith(
        b"HTTP/1.1 401"
    )


def test_s46_no_secret_is_left_anywhere(cloud):
    """Tokens and query strings are in no file of the gateway and in no answer, however the request ends."""
    secrets = [f"canary-{number}" for number in range(20)]
    tokens = tuple(Token(f"t{number}", hash_token(secret)) for number, secret in enumerate(secrets[:10]))
    cloud.serve(cloud.a, access=Access(tokens=tokens), limits=Limits(body_bytes=10))
    found = []
    for secret in secrets:
        found += [
            cloud.call(token=secret),
            cloud.call(f"/?key={secret}", token=None),
            cloud.call("/", "POST", token=secret, content=b"x" * 11),
            cloud.call("/die", "POST", token=secret),
            cloud.client.get(f"{cloud.url}/ws/none?token={secret}", headers={"x-api-key": secret}),
        ]
    told = [one for one in found if "canary" in one.text or "canary" in str(one.headers)]
    wait_for(lambda: list((cloud.folder / "usage" / "w0").glob("*.jsonl")), what="facts on the disk")
    files = [path for path in cloud.folder.rglob("*") if path.is_file()]
    leaks = [path for path in files if b"canary" in path.read_bytes()]
    print(f"S46: {len(found)} requests, {dict(Counter(one.status_code for one in found))}, {len(files)} files read")
    assert not told and not leaks and len(files) >= 4


HEAVY = {
    "100 kB Range": (request(AUTH + b"range: bytes=" + b"0-1," * 25_000 + b"\r\n"), b"431"),
    "10,000 headers": (request(AUTH + b"".join(b"x-%d: y\r\n" % number for number in range(10_000))), b"431"),
    "129 headers": (request(AUTH + b"x: y\r\n" * 128), b"431"),
    "1 MB header": (request(AUTH + b"x: " + b"y" * (1 << 20) + b"\r\n"), b"431"),
    "1 MB of spaces": (request(AUTH + b"x:" + b" " * (1 << 20) + b"\r\n"), b"431"),
    "1 MB target": (request(AUTH, b"GET /" + b"%2e/" * (1 << 18) + b" HTTP/1.1"), b"431"),
    "100 kB target": (request(AUTH, b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), b"431"),
    "1 MB without a line end": (b"G" * (1 << 20), b"431"),
    "60 kB of options": (request(AUTH + b"connection: " + b"a," * 30_000 + b"\r\n"), b"431"),
    "60 kB of forwarders": (request(AUTH + b"x-forwarded-for: " + b"1.1.1.1," * 7000 + b"\r\n"), b"200"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEAVY)
def test_s48_a_costly_head_costs_no_more_than_others(cloud, kind):
    """Forty of each: the right answer each time, and little of the worker's time."""
    cloud.serve(cloud.a)
    data, status = HEAVY[kind]
    before, began = cpu_s(cloud.worker.pid), time.monotonic()
    answers = Counter(first_answer(cloud, data) for _ in range(40))
    used = cpu_s(cloud.worker.pid) - before
    print(f"S48 {kind}: {dict(answers)}, {1000 * used / 40:.1f} ms of processor each, {time.monotonic() - began:.2f} s")
    assert answers == {status: 40}
    assert used < 40 * 0.05


def first_answer(cloud, data: bytes) -> bytes:
    """The status of what comes back first; the rest may be cut."""
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        return connection.recv(65536).split(b" ", 2)[1]


def test_s49_half_a_million_chunks_of_one_byte_are_refused(cloud):
    cloud.serve(cloud.a)
    memory, cpu = rss_bytes(cloud.worker.pid), cpu_s(cloud.worker.pid)
    sent = 0
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=20) as connection:
        connection.sendall(request(AUTH + CHUNKED, POST))
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                connection.sendall(b"1\r\nx\r\n" * 1000)
                sent += 1000
        answer = connection.recv(4096)
    used, grown = cpu_s(cloud.worker.pid) - cpu, rss_bytes(cloud.worker.pid) - memory
    print(f"S49: {sent} chunks sent, {answer[:12]}, {used:.2f} s of processor, {grown / 1e6:.1f} MB more")
    assert answer.startswith(b"HTTP/1.1 400") and used < 2 and grown < 16e6
    chunks = b"1\r\nx\r\n" * (MANY_CHUNKS - 1) + b"0\r\n\r\n"
    assert cloud.raw(request(AUTH + CHUNKED, POST, chunks)).startswith(b"HTTP/1.1 200"), "fewer are a body like others"


@pytest.mark.parametrize("framing", [b"content-length: 10000000000\r\n", CHUNKED])
def test_s49_ten_gigabytes_are_never_held(cloud, framing):
    """Declared for an endpoint that takes 10 MB: refused at once. For one that takes them but does not read: a few buffers."""
    cloud.serve(cloud.a, limits=Limits(body_bytes=10_000_000))
    if framing != CHUNKED:
        assert cloud.raw(request(AUTH + framing, POST)).startswith(b"HTTP/1.1 413")
    cloud.serve(cloud.a, limits=Limits(body_bytes=10**11))
    memory, sent = rss_bytes(cloud.worker.pid), 0
    part = b"100000\r\n" + bytes(1 << 20) + b"\r\n" if framing == CHUNKED else bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", cloud.port)) as connection:
        connection.sendall(request(AUTH + framing, b"POST /ws/echo/unread?s=5 HTTP/1.1"))
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent < 10**9:
                sent += connection.send(part)
        grown = rss_bytes(cloud.worker.pid) - memory
        assert all(cloud.call().status_code == 200 for _ in range(20))
    print(
        f"S49: 10 GB declared, {sent / 1e6:.0f} MB taken by buffers of the system, {grown / 1e6:.1f} MB by the worker"
    )
    assert sent < 10**9 and grown < 16e6


def slow_clients(cloud, count: int) -> list[socket.socket]:
    """A quarter each: half a head, half a body, an answer that is never read, and nothing at all."""
    starts = [
        b"GET /ws/echo/ HTTP/1.1\r\nhost: x\r\nx-slow: ",
        request(AUTH + b"content-length: 1000\r\n", POST, b"a few bytes"),
        request(AUTH, b"GET /ws/echo/bytes?n=10000000 HTTP/1.1"),
        b"",
    ]
    found = []
    for number in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", cloud.port))
        connection.sendall(starts[number % 4])
        found.append(connection)
    return found


def test_s53_five_hundred_slow_clients_hurt_nobody_and_are_cut(cloud):
    cloud.serve(cloud.a)
    memory = rss_bytes(cloud.worker.pid)
    slow = slow_clients(cloud, 500)
    wait_for(lambda: sum(one.connections for one in cloud.traffic().reports) >= 500, what="500 connections")
    healthy = Counter(cloud.call().status_code for _ in range(100))
    grown = rss_bytes(cloud.worker.pid) - memory
    print(f"S53: 500 slow clients, healthy ones {dict(healthy)}, {grown / 1e6:.1f} MB more")
    assert healthy == {200: 100} and grown < 64e6
    slow[0].settimeout(20)
    assert slow[0].recv(100).startswith(b"HTTP/1.1 408"), "ten seconds are enough for a head"
    for connection in slow:
        connection.close()
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 0, what="the end of what they had begun")


def test_s53_more_slow_clients_than_there_is_room_for_keep_out_nobody(tmp_path):
    cloud = Cloud(tmp_path / "cloud", files=400)  # room for 136 connections
    try:
        cloud.serve(cloud.replica("a"))
        heads = [socket.create_connection(("127.0.0.1", cloud.port)) for _ in range(500)]
        for connection in heads:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /ws/echo/ HTTP/1.1\r\nx-slow: ")
        healthy = Counter(cloud.call().status_code for _ in range(100))
        print(f"S53: 500 connections where 136 have room, healthy ones {dict(healthy)}")
        assert healthy == {200: 100}
        assert sum(one.connections for one in cloud.traffic().reports) <= 136
        for connection in heads:
            connection.close()
    finally:
        cloud.close()


def test_limits_are_per_key_and_the_workspaces_keys_have_them_too(cloud):
    """Three callers, each with its own ten seconds' worth; none takes from another."""
    tokens = (Token("t1", hash_token(TOKEN)), Token("t2", hash_token("fast"), requests_per_minute=120))
    keys = (Key("k1", hash_token("key"), workspace="ws"),)
    endpoint = cloud.serve(cloud.a, name="limited", access=Access(tokens=tokens), limits=Limits(requests_per_minute=30))
    cloud.route(endpoint, keys=keys)
    found, most = {}, {}
    for token, per_minute in ((TOKEN, 30), ("fast", 120), ("key", 30)):
        began = time.monotonic()
        found[token] = Counter(cloud.call(endpoint="limited", token=token).status_code for _ in range(30))
        # Ten seconds' worth, and what comes in while the test runs.
        most[token] = per_minute / 6 + per_minute / 60 * (time.monotonic() - began) + 1
    print(f"limits: {found}")
    assert all(set(counts) == {200, 429} for counts in found.values())
    assert [found[token][200] >= worth for token, worth in ((TOKEN, 5), ("fast", 20), ("key", 5))] == [True] * 3
    assert all(found[token][200] <= most[token] for token in found)


def test_s28_no_request_chooses_where_the_gateway_connects(cloud):
    """A listener stands for the machine's metadata service: whatever names it in a request, it is never called."""
    with socket.create_server(("127.0.0.1", 0)) as metadata:
        where = b"127.0.0.1:%d" % metadata.getsockname()[1]
        cloud.serve(cloud.a, header_routing=True)
        probes = [
            request(AUTH, b"GET http://" + where + b"/ HTTP/1.1"),
            request(AUTH, b"GET //" + where + b"/ HTTP/1.1"),
            request(AUTH, b"CONNECT " + where + b" HTTP/1.1"),
            request(AUTH, b"GET /ws/echo/http://" + where + b"/ HTTP/1.1"),
            request(AUTH + b"x-lepton-replica-target: " + where + b"\r\n"),
            request(AUTH + b"x-forwarded-host: " + where + b"\r\nforwarded: host=" + where + b"\r\n"),
            request(AUTH + b"x-original-url: http://" + where + b"/\r\n"),
            request(AUTH, b"GET /ws/echo@" + where + b"/ HTTP/1.1"),
            b"GET /ws/echo/ HTTP/1.1\r\nhost: " + where + b"\r\n" + AUTH + b"\r\n",
        ]
        answers = Counter(cloud.raw(probe).split(b" ", 2)[1] for probe in probes)
        metadata.settimeout(0.3)
        with pytest.raises(TimeoutError):
            metadata.accept()
    print(f"S28: {len(probes)} probes, {dict(answers)}, 0 connections")
    assert sum(answers.values()) == len(probes) and not [status for status in answers if status.startswith(b"5")]
