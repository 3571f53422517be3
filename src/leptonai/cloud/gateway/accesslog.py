"""The access log: one JSON line per request, with the request id that client, replica and usage fact have. Off unless asked for.

`LEPTON_ACCESS_LOG=1` writes every request, `0.01` one of a hundred (and every error of a replica or of the gateway) to
`gateway/access-<worker>.jsonl`. Lines are collected and written by a thread each second: a log is no fact, so a killed worker may lose
the last ones. At `ROTATE_BYTES` the file becomes `….1`, and the one before goes.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...base.errors import InvalidInput

if TYPE_CHECKING:
    from .exchange import Exchange
    from .heads import RequestHead

ROTATE_BYTES = 64 << 20
MAX_LINES = 100_000
"""Kept in memory at most; past that, lines are counted and dropped (a disk that hangs must not fill the memory)."""


class AccessLog:
    def __init__(self, path: Path, share: float):
        self.path, self.share = path, share
        self.dropped = 0
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []

    @classmethod
    def from_environment(cls, folder: Path, worker: str) -> AccessLog | None:
        """None if it is off. Raises InvalidInput."""
        text = os.environ.get("LEPTON_ACCESS_LOG", "0")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0.0 <= share <= 1.0:
            raise InvalidInput("LEPTON_ACCESS_LOG is no share of the requests", received=text, expected="0 to 1")
        return cls(folder / f"access-{worker}.jsonl", share) if share else None

    def add(self, exchange: Exchange, now: float) -> None:
        """The end of an admitted request."""
        if exchange.status < 500 and not self._wanted():
            return
        endpoint, request = exchange.endpoint, exchange.request
        self._put(
            {
                "at": round(time.time(), 3),
                "request_id": exchange.request_id.decode(),
                "client": exchange.client,
                "method": request.method.decode(),
                "path": request.target.partition(b"?")[0].decode(),  # a query may hold secrets
                "status": exchange.status,
                "duration_ms": round((now - exchange.started) * 1000, 3),
                "bytes_in": exchange.bytes_in,
                "bytes_out": exchange.bytes_out,
                "endpoint": endpoint.key if endpoint is not None else None,
                "caller": exchange.caller,
                "revision": exchange.revision.id if exchange.revision is not None else None,
                "replica": exchange.replica.id if exchange.replica is not None else None,
                "attempts": exchange.attempts,
            }
        )

    def refused(self, client: str, request: RequestHead, request_id: bytes, status: int) -> None:
        """A request that was not let in."""
        if status < 500 and not self._wanted():
            return
        self._put(
            {
                "at": round(time.time(), 3),
                "request_id": request_id.decode(),
                "client": client,
                "method": request.method.decode(),
                "path": request.target.partition(b"?")[0].decode(),
                "status": status,
            }
        )

    def _wanted(self) -> bool:
        return self.share >= 1.0 or random.random() < self.share

    def _put(self, line: dict[str, object]) -> None:
        if len(self._lines) < MAX_LINES:
            self._lines.append(self._encode(line))
        else:
            self.dropped += 1

    def take(self) -> list[bytes]:
        """What has come since the last call, to be given to `write` in a thread."""
        lines, self._lines = self._lines, []
        return lines

    def write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        with contextlib.suppress(OSError):  # a full disk: usage facts say so, and a log is no reason to stop
            with open(self.path, "ab") as file:
                os.chmod(file.fileno(), 0o600)
                file.write(b"\n".join(lines) + b"\n")
                size = file.tell()
            if size >= ROTATE_BYTES:
                os.replace(self.path, self.path.with_suffix(".jsonl.1"))
