"""Heads of HTTP/1.1 messages, read strictly: what two parsers could read in two ways is refused, and the connection closed.

Nothing that frames a message is passed on as it came: length and encoding are written anew from what was understood here, so a
replica cannot see another end of the request than the gateway saw.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
MAX_CONNECTION_BYTES = 1024

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*\Z")  # origin form, no fragment, ASCII
_HOST = re.compile(rb"[A-Za-z0-9._\-]*(?::[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?\Z")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}\Z")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\Z")

# What is done with a header. Names that are not here are passed on.
KEEP, DROP, HOST, LENGTH, ENCODING, CONNECTION, AUTHORIZATION, UPGRADE, EXPECT, REQUEST_ID, FORWARDED_FOR, REPLICA = (
    range(12)
)
_SPECIAL = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"authorization": AUTHORIZATION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"x-request-id": REQUEST_ID,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-lepton-replica-target": REPLICA,
    # Hop by hop, or a claim about the way here that only the gateway may make.
    **dict.fromkeys(
        (
            b"keep-alive",
            b"proxy-connection",
            b"proxy-authorization",
            b"te",
            b"trailer",
            b"http2-settings",
            b"forwarded",
        ),
        DROP,
    ),
    **dict.fromkeys((b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip"), DROP),
}
_RESPONSE_SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    **dict.fromkeys((b"keep-alive", b"proxy-connection", b"x-request-id", b"proxy-authenticate"), DROP),
}


class BadMessage(Exception):
    """A head or a body that cannot be meant. `status` is for the client; the connection is closed after it."""

    def __init__(self, message: str, status: int = 400):
        self.message, self.status = message, status
        super().__init__(message)


@dataclass(slots=True)
class RequestHead:
    """`lines`: the headers to pass on, without what frames the message or names the way. `length` is None for chunked."""

    method: bytes
    target: bytes
    http11: bool
    lines: list[bytes]
    host: bytes = b""
    length: int | None = 0
    keep_alive: bool = True
    upgrade: bytes = b""
    expect: bool = False
    authorization: bytes | None = None
    request_id: bytes = b""
    forwarded_for: bytes = b""
    replica: bytes = b""


@dataclass(slots=True)
class ResponseHead:
    """`length`: bytes; -1: chunked; None: until the connection ends."""

    status: int
    first: bytes
    lines: list[bytes]
    length: int | None
    keep_alive: bool
    upgrade: bytes = b""


class _Names:
    """What each spelling of a header name means. Clients repeat few spellings, so checking one is a look-up."""

    def __init__(self, special: dict[bytes, int]):
        self.special = special
        self.known: dict[bytes, int] = {}

    def learn(self, name: bytes) -> int:
        if not _TOKEN.match(name):
            raise BadMessage("a header's name holds a character that no name may have")
        lower = name.lower()
        # CGI-like servers read `Content_Length` as `Content-Length`: an underscore twin of a name that matters is not passed on.
        kind = DROP if b"_" in lower and lower.replace(b"_", b"-") in self.special else self.special.get(lower, KEEP)
        if len(self.known) < 2000:
            self.known[name] = kind
        return kind


_REQUEST_NAMES, _RESPONSE_NAMES = _Names(_SPECIAL), _Names(_RESPONSE_SPECIAL)


def split_head(head: bytes) -> list[bytes]:
    """Lines of a head (without its empty last line), which hold no control character: no bare CR, LF or NUL."""
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS + 1:
        raise BadMessage("too many headers", 431)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or _CONTROLS.search(head):
        raise BadMessage("the head holds a bare line end or a control character")
    return lines


def parse_request(head: bytes) -> RequestHead:
    """`head`: everything before the empty line. Raises BadMessage."""
    lines = split_head(head)
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise BadMessage("the request line is not METHOD TARGET VERSION")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    if not method.isalpha() or not method.isupper() or len(method) > 20 or method == b"CONNECT":
        raise BadMessage("this method is not served", 405 if method == b"CONNECT" else 400)
    if not _TARGET.match(target):
        raise BadMessage("the target must be a path that begins with / and holds ASCII characters only")
    request = RequestHead(method, target, version == b"HTTP/1.1", [])
    keep, known, seen, connection = request.lines, _REQUEST_NAMES.known, 0, b""
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        kind = known.get(name, -1)
        if kind < 0:
            kind = _REQUEST_NAMES.learn(name)
        if not colon:
            raise BadMessage("a header has no colon")
        if kind == KEEP:
            keep.append(line)
        elif kind != DROP:
            if seen & 1 << kind:
                if kind == CONNECTION:
                    connection += b"," + value
                    continue
                if kind == FORWARDED_FOR:
                    request.forwarded_for += b"," + value
                    continue
                raise BadMessage(f"the header {name.decode().lower()} is there twice")
            seen |= 1 << kind
            if kind == CONNECTION:
                connection = value
            else:
                _special(request, kind, value.strip(b" \t"))
    _check_request(request, seen, connection)
    return request


def _special(request: RequestHead, kind: int, value: bytes) -> None:
    if kind == HOST:
        if not _HOST.match(value):
            raise BadMessage("the header host is not a host")
        request.host = value
    elif kind == LENGTH:
        if not _DIGITS.match(value):
            raise BadMessage("content-length is not a number of bytes")
        request.length = int(value)
    elif kind == ENCODING:
        if value.lower() != b"chunked" or not request.http11:
            raise BadMessage(
                "the only transfer-encoding that is understood is chunked, in HTTP/1.1", 501 if request.http11 else 400
            )
    elif kind == AUTHORIZATION:
        request.authorization = value
    elif kind == UPGRADE:
        request.upgrade = value
    elif kind == EXPECT:
        if value.lower() != b"100-continue":
            raise BadMessage("the only expectation that can be met is 100-continue", 417)
        request.expect = request.http11
    elif kind == REQUEST_ID:
        request.request_id = value if _REQUEST_ID.match(value) else b""
    elif kind == FORWARDED_FOR:
        request.forwarded_for = value
    else:
        request.replica = value


def _check_request(request: RequestHead, seen: int, connection: bytes) -> None:
    if request.http11 and not seen & 1 << HOST:
        raise BadMessage("the header host is missing")
    if seen & 1 << ENCODING:
        if seen & 1 << LENGTH:
            raise BadMessage("content-length and transfer-encoding exclude each other")
        request.length = None
    options = _options(connection)
    request.keep_alive = request.http11 and b"close" not in options
    if request.upgrade and (b"upgrade" not in options or request.upgrade.lower() != b"websocket" or not request.http11):
        request.upgrade = b""  # h2c and unknown protocols: an upgrade may be ignored (RFC 9110, 7.8)
    if request.upgrade and (request.length != 0 or request.method != b"GET"):
        raise BadMessage("an upgrade is a GET without a body")
    _drop_listed(request.lines, options)


def _options(connection: bytes) -> set[bytes]:
    if len(connection) > MAX_CONNECTION_BYTES:
        raise BadMessage("the header connection is too long", 431)
    return {option.strip(b" \t").lower() for option in connection.split(b",")} if connection else set()


def _drop_listed(lines: list[bytes], options: set[bytes]) -> None:
    """Remove the headers that `Connection` names: they are for this hop only."""
    named = options - {b"close", b"keep-alive", b"upgrade", b""}
    if named:
        lines[:] = [line for line in lines if line.partition(b":")[0].lower() not in named]


def parse_response(head: bytes, method: bytes) -> ResponseHead:
    """`head`: everything before the empty line. Raises BadMessage: the replica does not speak HTTP/1.1."""
    lines = split_head(head)
    match = _STATUS.match(lines[0])
    if not match:
        raise BadMessage("the replica's answer does not begin with a status line", 502)
    status, http11 = int(match[2]), match[1] == b"1"
    keep: list[bytes] = []
    length: int | None = None
    chunked, connection, upgrade = False, b"", b""
    known = _RESPONSE_NAMES.known
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        kind = known.get(name, -1)
        if kind < 0:
            kind = _RESPONSE_NAMES.learn(name)
        if not colon:
            raise BadMessage("a header of the replica has no colon", 502)
        if kind == KEEP:
            keep.append(line)
        elif kind == LENGTH:
            value = value.strip(b" \t")
            if length is not None or not _DIGITS.match(value):
                raise BadMessage("content-length of the replica is not one number", 502)
            length = int(value)
        elif kind == ENCODING:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise BadMessage("the replica's transfer-encoding is not understood", 502)
            chunked = True
        elif kind == CONNECTION:
            connection += b"," + value
        elif kind == UPGRADE:
            upgrade = value.strip(b" \t")
    if chunked and (length is not None or not http11):
        raise BadMessage("the replica frames its answer in two ways", 502)
    options = _options(connection)
    _drop_listed(keep, options)
    keep_alive = http11 and b"close" not in options
    if chunked:
        keep.append(b"transfer-encoding: chunked")
        size: int | None = -1
    else:
        size = length
        if length is not None:
            keep.append(b"content-length: %d" % length)
    if method == b"HEAD" or status in (204, 304) or status < 200:
        size = 0
    return ResponseHead(status, lines[0], keep, size, keep_alive and size is not None, upgrade)
