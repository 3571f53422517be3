"""Requests that two parsers could read in two ways (S54): refused, and the connection cut."""

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.cloud.gateway.bodies import Chunked
from leptonai.cloud.gateway.heads import BadMessage, parse_request
from leptonai.cloud.gateway.table import Limits

from .conftest import TOKEN

AUTH = b"authorization: Bearer " + TOKEN.encode() + b"\r\n"
NEXT = b"GET /ws/echo/smuggled HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /ws/echo/ HTTP/1.1\r\nhost: x\r\n" + AUTH + headers + b"\r\n" + body


SMUGGLED = {
    "CL.TE": post(b"content-length: 6\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\nG"),
    "TE.CL": post(b"transfer-encoding: chunked\r\ncontent-length: 3\r\n", b"8\r\nSMUGGLED\r\n0\r\n\r\n"),
    "TE.TE": post(b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", b"0\r\n\r\n"),
    "TE twice": post(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
    "TE list": post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "TE xchunked": post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n"),
    "TE vertical tab": post(b"transfer-encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "TE space before colon": post(b"transfer-encoding : chunked\r\n", b"0\r\n\r\n"),
    "CL twice": post(b"content-length: 3\r\ncontent-length: 4\r\n", b"abcd"),
    "CL twice, equal": post(b"content-length: 3\r\ncontent-length: 3\r\n", b"abc"),
    "CL list": post(b"content-length: 3, 3\r\n", b"abc"),
    "CL plus": post(b"content-length: +3\r\n", b"abc"),
    "CL minus": post(b"content-length: -3\r\n", b"abc"),
    "CL hex": post(b"content-length: 0x3\r\n", b"abc"),
    "CL empty": post(b"content-length: \r\n", b"abc"),
    "CL arabic digits": post("content-length: \u0663\r\n".encode(), b"abc"),
    "obs-fold": post(b"x-a: b\r\n content-length: 3\r\n", b"abc"),
    "bare LF in the head": b"GET /ws/echo/ HTTP/1.1\nhost: x\n" + AUTH + b"\r\n",
    "bare LF in a header": post(b"x: y\ncontent-length: 3\r\n", b"abc"),
    "bare CR in a header": post(b"x: y\rcontent-length: 3\r\n", b"abc"),
    "NUL": post(b"x: a\x00b\r\n"),
    "no colon": post(b"content-length\r\n"),
    "name with a space": post(b"content length: 3\r\n"),
    "chunk size with a sign": post(b"transfer-encoding: chunked\r\n", b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x": post(b"transfer-encoding: chunked\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with a space": post(b"transfer-encoding: chunked\r\n", b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk size too long": post(b"transfer-encoding: chunked\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk extension": post(b"transfer-encoding: chunked\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    "chunk ends with LF": post(b"transfer-encoding: chunked\r\n", b"5\r\nhello\n0\r\n\r\n"),
    "chunk size ends with LF": post(b"transfer-encoding: chunked\r\n", b"5\nhello\r\n0\r\n\r\n"),
    "chunk longer than said": post(b"transfer-encoding: chunked\r\n", b"5\r\nhelloXX0\r\n\r\n"),
    "trailer": post(b"transfer-encoding: chunked\r\n", b"0\r\ncontent-length: 5\r\n\r\n"),
    "host twice": b"GET /ws/echo/ HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "no host": b"GET /ws/echo/ HTTP/1.1\r\n\r\n",
    "host with a path": b"GET /ws/echo/ HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "authorization twice": post(b"authorization: Bearer other\r\n"),
    "absolute target": b"GET http://other/ HTTP/1.1\r\nhost: x\r\n\r\n",
    "target with a control": b"GET /a\x01b HTTP/1.1\r\nhost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TE in HTTP/1.0": b"POST /ws/echo/ HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", SMUGGLED)
def test_an_ambiguous_request_is_refused_and_what_follows_is_never_seen(cloud, kind):
    cloud.serve(cloud.a)
    before = cloud.a.seen()["requests"]
    found = cloud.raw(SMUGGLED[kind] + NEXT)
    answers = re.findall(rb"HTTP/1\.1 (\d+)", found)
    assert len(answers) == 1 and answers[0] in (b"400", b"405", b"501", b"505"), found
    assert b"connection: close" in found and not found.endswith(b"<still open>")
    assert cloud.a.seen()["requests"] <= before + 2, "at most the head of the first one, whose body was cut"
    assert b"smuggled" not in found


def test_a_request_after_a_good_one_is_seen(cloud):
    """The test of the test: the same two requests with honest framing are both answered."""
    cloud.serve(cloud.a)
    found = cloud.raw(post(b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n") + NEXT)
    assert found.count(b"HTTP/1.1 200") == 2 and b"smuggled" in found


def test_a_chunked_body_is_counted(cloud):
    cloud.serve(cloud.a, limits=Limits(body_bytes=10))
    assert cloud.call("/", "POST", content=iter([b"12345"])).status_code == 200
    assert b" 413 " in cloud.raw(post(b"transfer-encoding: chunked\r\n", b"f\r\n123456789012345\r\n0\r\n\r\n"))


def test_a_chunked_body_is_the_same_however_it_is_cut():
    body = b"5\r\nhello\r\n1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"
    for size in range(1, len(body)):
        chunks, used = Chunked(strict=True), 0
        for start in range(0, len(body), size):
            part = body[start : start + size] + (b"GET" if start + size >= len(body) else b"")
            used += chunks.feed(part)
        assert chunks.done and used == len(body) and chunks.payload == 31


def end_of(data: bytes, sizes: list[int], strict: bool) -> tuple[int, int, bool] | str:
    """(bytes that belong to the body, bytes in it, whether it has ended), or what is wrong; fed in parts of these sizes."""
    chunks, used, position = Chunked(strict=strict), 0, 0
    for size in [*sizes, len(data)]:
        if chunks.done:
            break
        try:
            used += chunks.feed(data[position : position + size])
        except BadMessage as error:
            return error.message
        position += size
    return used, chunks.payload, chunks.done


PIECES = [
    b"1\r\nx\r\n",
    b"a\r\n0123456789\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"05\r\nhello\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"1",
    b";",
    b"GET ",
    b"+1\r\nx\r\n",
]


@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    st.lists(st.integers(1, 9), max_size=20),
    st.booleans(),
)
def test_a_body_has_one_end_however_it_is_cut(data, sizes, strict):
    """Read at once (where whole chunks are passed over quickly) or byte by byte: the same bytes belong to it, or it is refused."""
    whole, cut = end_of(data, [], strict), end_of(data, sizes, strict)
    assert cut == whole == end_of(data, [1] * len(data), strict)


def test_heads_are_read_in_linear_time():
    for head in (b"GET /" + b"%2e/" * 15_000 + b" HTTP/1.1\r\nhost: x", b"GET / HTTP/1.1\r\nhost: " + b"a-" * 30_000):
        began = time.perf_counter()
        with contextlib.suppress(BadMessage):
            parse_request(head)
        assert time.perf_counter() - began < 0.2
