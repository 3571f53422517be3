"""Sockets to listen on. Owns the rule that a port which is taken, or an address which is none, is said at once and plainly."""

from __future__ import annotations

import ipaddress
import socket

from .errors import Conflict, InvalidInput


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound stream socket; port 0 takes a free one. `shared`: other processes of this user may listen on the port too.

    Raises InvalidInput if this is no address, Conflict if somebody else has the port.
    """
    try:
        if not 0 <= port <= 65535:  # glibc would take it modulo 65536
            raise OverflowError(port)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, OverflowError) as error:
        raise InvalidInput(
            "this is no address to listen on", received=f"{host}:{port}", expected="a host and a port"
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {host}:{port} ({error.strerror})", fix="Choose another --port; 0 takes a free one."
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
