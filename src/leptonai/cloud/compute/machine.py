"""What this machine has: cores, memory, GPUs, and TCP ports on which nothing listens. Owns no state."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from .driver import Resources

PORTS = range(20_000, 32_000)
"""Below the range from which the system itself takes ports for outgoing connections."""


def machine() -> Resources:
    """What this machine has in all."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    return Resources(float(cpus), memory, gpus)


def free_ports(count: int, taken: set[int]) -> list[int] | None:
    """`count` ports on which nothing listens and that nobody else was given; None if there are not as many."""
    found: list[int] = []
    # Begin at a place of our own, so that two homes on one machine seldom meet.
    begin = (os.getpid() * 97 + time.monotonic_ns() // 1_000_000) % len(PORTS)
    for step in range(len(PORTS) if count else 0):
        port = PORTS[(begin + step) % len(PORTS)]
        if port not in taken and _is_free(port):
            found.append(port)
            if len(found) == count:
                break
    return found if len(found) == count else None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104
        except OSError:
            return False
        return True
