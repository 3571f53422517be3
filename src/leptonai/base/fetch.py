"""The guarded fetcher: the one way in which a server reads a URL that a client gave it. Owns who may be asked: public addresses only.

The name is resolved once and the connection goes to the address that was checked, so a name that answers differently the second
time gains nothing; every redirect is checked again.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urljoin, urlsplit

from .errors import InvalidInput, Refused, Unavailable

MAX_REDIRECTS = 5
PRIVATE = "LEPTON_FETCH_PRIVATE"
"""Set to 1, private and loopback addresses may be fetched from too: for a network whose clients are all trusted."""


def fetch(url: str, *, limit_bytes: int = 256 << 20, timeout_s: float = 60.0) -> bytes:
    """The bytes behind an http(s) URL. Raises Refused for an address that is not public, Unavailable where nothing comes."""
    import httpx

    with httpx.Client(timeout=timeout_s, trust_env=False, follow_redirects=False) as client:
        for _ in range(MAX_REDIRECTS + 1):
            target, headers, extensions = _pinned(url)
            try:
                with client.stream("GET", target, headers=headers, extensions=extensions) as answer:
                    if answer.is_redirect and "location" in answer.headers:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status_code != 200:
                        raise Unavailable("the URL gives nothing", received=f"{answer.status_code} from {_shown(url)}")
                    return _read(answer, limit_bytes, url)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise Unavailable(f"{_shown(url)} cannot be read ({type(error).__name__})") from None
    raise Refused("the URL redirects too often", received=_shown(url))


def _pinned(url: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """The URL with its host replaced by a checked address, and what the server and TLS are to be told instead."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https") or parts.username is not None:
        raise InvalidInput(
            "this is no URL to fetch", received=_shown(url), expected="http://… or https://… without a user name"
        )
    try:
        found = socket.getaddrinfo(host, port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_STREAM)
    except OSError:
        raise Unavailable("the host of the URL is not known", received=host) from None
    addresses = [ipaddress.ip_address(one[4][0].partition("%")[0]) for one in found]
    for address in addresses:
        mapped = getattr(address, "ipv4_mapped", None) or address
        if (not mapped.is_global or mapped.is_multicast) and os.environ.get(PRIVATE) != "1":
            raise Refused(
                "a URL may not lead into the server's own network", received=_shown(url), expected="a public address"
            )
    address = addresses[0]
    netloc = f"[{address}]" if address.version == 6 else str(address)
    netloc += f":{port}" if port else ""
    return parts._replace(netloc=netloc, fragment="").geturl(), {"host": parts.netloc}, {"sni_hostname": host}


def _read(answer, limit_bytes: int, url: str) -> bytes:  # type: ignore[no-untyped-def]
    pieces, size = [], 0
    for piece in answer.iter_bytes():
        size += len(piece)
        if size > limit_bytes:
            raise Refused(
                "the file behind the URL is too large", received=_shown(url), expected=f"at most {limit_bytes} bytes"
            )
        pieces.append(piece)
    return b"".join(pieces)


def _shown(url: str) -> str:
    """Without query and user: they may hold secrets."""
    return url.partition("?")[0].rpartition("@")[2] if "@" in url else url.partition("?")[0]
