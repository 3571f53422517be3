"""What reaches a replica and what comes back: heads, bodies of every framing, streams, upgrades, errors of replicas."""

import json
import socket
import time

import httpx
import pytest

from leptonai.cloud.gateway.table import Access, Limits, Replica

from .conftest import TOKEN, wait_for


def pairs(answer) -> dict:
    return {key.lower(): value for key, value in answer.json()["headers"]}


def test_a_request_reaches_the_replica_without_the_way_and_the_token(cloud):
    cloud.serve(cloud.a)
    answer = cloud.call("/predict?x=1", "POST", json={"a": 1}, headers={"x-mine": "yes", "x-request-id": "my-id-1"})
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "my-id-1"
    assert answer.json()["target"] == "/predict?x=1" and json.loads(answer.json()["body"]) == {"a": 1}
    seen = pairs(answer)
    assert seen["x-mine"] == "yes" and seen["x-request-id"] == "my-id-1" and seen["x-forwarded-for"] == "127.0.0.1"
    assert "authorization" not in seen


def test_the_token_is_shown_only_where_that_is_wanted(cloud):
    cloud.serve(cloud.a, access=Access(public=True))
    assert pairs(cloud.call(token="for-the-replica-itself"))["authorization"] == "Bearer for-the-replica-itself"
    known = cloud.serve(cloud.a).access
    cloud.serve(cloud.a, access=Access(tokens=known.tokens, keep_authorization=True))
    assert pairs(cloud.call())["authorization"] == f"Bearer {TOKEN}"
    cloud.serve(cloud.a, access=Access(public=True, tokens=known.tokens))
    assert "authorization" not in pairs(cloud.call()), "a token of ours goes to no replica, public or not"


def test_hop_by_hop_headers_and_claims_of_the_client_end_here(cloud):
    cloud.serve(cloud.a)
    answer = cloud.call(
        headers={
            "connection": "keep-alive, x-only-here",
            "x-only-here": "1",
            "keep-alive": "timeout=5",
            "te": "trailers",
            "proxy-authorization": "Basic eA==",
            "x-forwarded-for": "9.9.9.9",
            "x-forwarded-proto": "https",
            "x_forwarded_for": "8.8.8.8",
            "content_length": "5",
        }
    )
    seen = pairs(answer)
    assert not {"x-only-here", "keep-alive", "te", "proxy-authorization", "x_forwarded_for", "content_length"} & set(
        seen
    )
    assert seen["x-forwarded-for"] == "127.0.0.1" and seen["x-forwarded-proto"] == "http"


def test_chunked_bodies_pass_both_ways(cloud):
    cloud.serve(cloud.a)
    answer = cloud.call("/", "POST", content=iter([b"one ", b"two ", b"x" * 100_000]))
    assert answer.json()["body"] == "one two " + "x" * 100_000
    assert pairs(answer)["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("path, body", [("/until-close", b"all that there is"), ("/bytes?n=5", bytes(5))])
def test_answers_of_every_framing(cloud, path, body):
    cloud.serve(cloud.a)
    assert cloud.call(path).content == body


def test_a_head_request_and_an_old_client(cloud):
    cloud.serve(cloud.a)
    assert cloud.call("/", "HEAD").headers["content-length"] != "0"
    old = cloud.raw(b"GET /ws/echo/stream?n=2&gap=0 HTTP/1.0\r\nauthorization: Bearer %b\r\n\r\n" % TOKEN.encode())
    assert old.startswith(b"HTTP/1.1 502"), "a replica that chunks for HTTP/1.0 would be misread"
    old = cloud.raw(b"GET /ws/echo/ HTTP/1.0\r\nauthorization: Bearer %b\r\n\r\n" % TOKEN.encode())
    assert old.startswith(b"HTTP/1.1 200") and old.endswith(b"}"), "the connection ends with the answer"


def test_a_stream_comes_as_it_is_made(cloud):
    cloud.serve(cloud.a)
    times = []
    with httpx.stream(
        "GET", f"{cloud.url}/ws/echo/stream?n=5&gap=0.1", headers={"authorization": f"Bearer {TOKEN}"}
    ) as answer:
        for part in answer.iter_text():
            times.append((time.monotonic(), part))
    assert [part for _, part in times] == [f"data: {number}\n\n" for number in range(5)]
    assert times[-1][0] - times[0][0] > 0.3


def test_an_upgraded_connection_is_a_tunnel(cloud):
    cloud.serve(cloud.a)
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=5) as connection:
        connection.sendall(
            b"GET /ws/echo/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
            % TOKEN.encode()
        )
        found = b""
        while not found.endswith(b"hello"):
            found += connection.recv(4096)
        assert found.startswith(b"HTTP/1.1 101") and b"upgrade: websocket" in found
        for text in (b"some text", b"more"):
            connection.sendall(text)
            assert connection.recv(4096) == text.upper()
        assert cloud.traffic()
    wait_for(lambda: cloud.a.seen()["open"] == 1, what="the end of the tunnel")


def test_requests_on_one_connection_are_answered_in_order(cloud):
    cloud.serve(cloud.a)
    one = b"GET /ws/echo/%d HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    found = cloud.raw(b"".join(one % number for number in range(200)))
    assert found.count(b"HTTP/1.1 200") == 200
    positions = [found.index(b'"target": "/%d"' % number) for number in range(200)]
    assert positions == sorted(positions)


def test_a_client_that_asks_first_gets_its_continue(cloud):
    cloud.serve(cloud.a)
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=5) as connection:
        head = b"POST /ws/echo/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        connection.sendall(head % TOKEN.encode())
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        found = b""
        while not found.endswith(b"}"):
            found += connection.recv(4096)
        assert b'"body": "abc"' in found


def test_an_early_answer_is_read_although_the_body_is_not(cloud):
    cloud.serve(cloud.a)
    answer = cloud.call(
        "/early", "POST", content=iter([b"x" * 65536] * 1000)
    )  # more than the buffers of two connections hold
    assert answer.status_code == 413 and answer.text == "large" and answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\nx: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx y: z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"",
    ],
)
def test_a_replica_that_answers_nonsense_is_a_502_with_a_request_id(cloud, answer):
    cloud.serve(cloud.a)
    found = cloud.call("/raw", "POST", content=answer)
    assert found.status_code == 502 and found.json()["request_id"] == found.headers["x-request-id"]


def test_an_answer_that_is_cut_is_not_passed_off_as_whole(cloud):
    cloud.serve(cloud.a)
    for start in (b"content-length: 100\r\n\r\npart", b"transfer-encoding: chunked\r\n\r\n5\r\nab"):
        with pytest.raises(httpx.RemoteProtocolError):
            cloud.call("/raw", "POST", content=b"HTTP/1.1 200 OK\r\n" + start)


def test_bytes_after_an_answer_never_become_the_next_answer(cloud):
    cloud.serve(cloud.a)
    poison = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        for _ in range(5):
            assert client.post(f"{cloud.url}/ws/echo/raw?keep=1", content=poison).text == "ok"
            assert client.get(f"{cloud.url}/ws/echo/").json()["replica"] == "a"


def test_a_replica_that_takes_too_long_is_a_504(cloud):
    cloud.serve(cloud.a, limits=Limits(timeout_s=0.5))
    assert cloud.call("/sleep?s=5").status_code == 504
    assert cloud.call("/stream?n=5&gap=0.2").text.endswith("data: 4\n\n"), "a stream may take longer in all"


def test_no_replica_in_reach_is_a_503(cloud):
    cloud.serve(Replica("none", "127.0.0.1:1"), limits=Limits(hold_s=0.3))
    started = time.monotonic()
    answer = cloud.call("/", "POST")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1" and time.monotonic() - started < 3
