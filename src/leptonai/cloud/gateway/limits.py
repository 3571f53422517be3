"""Requests per minute of each caller, counted over all workers of this machine. Owns the file `limits` that they share.

GCRA: one number per caller, the moment at which its bucket is empty again. A caller may save up ten seconds' worth. Of a high limit
a worker takes ten milliseconds' worth at a time, so that not every request has to ask the others; it never gives out more than it took.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import time
from pathlib import Path

SLOTS = 1 << 16
_PROBES = 16
_SLOT = struct.Struct("=qd")
BURST_S = 10.0
CLAIM_S = 0.01
MAX_CLAIMS = 4096


class SharedLimits:
    """A table of (caller's hash, moment) in memory that the workers share; a lock on the file makes each step one step."""

    def __init__(self, path: Path, clock=time.monotonic):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < SLOTS * _SLOT.size:
            os.ftruncate(self._file, SLOTS * _SLOT.size)
        self._memory = mmap.mmap(self._file, SLOTS * _SLOT.size)
        self._clock = clock
        self._claims: dict[tuple[str, int], list[float]] = {}
        """[requests that are left, moment until which they count] of what this worker took ahead."""

    def take(self, caller: str, per_minute: int) -> float:
        """Take one request. 0.0: it may go on; otherwise the seconds until it may be tried again, and nothing was taken."""
        if per_minute <= 0:
            return 60.0
        ahead = int(per_minute * CLAIM_S / 60)
        if ahead < 2:
            return self._take(caller, per_minute, 1)
        now = self._clock()
        claim = self._claims.get((caller, per_minute))
        if claim is not None and claim[0] and now < claim[1]:
            claim[0] -= 1
            return 0.0
        if self._take(caller, per_minute, ahead) > 0:
            return self._take(caller, per_minute, 1)
        if len(self._claims) >= MAX_CLAIMS:
            self._claims.clear()  # what was claimed is lost to its callers: ten milliseconds' worth
        self._claims[caller, per_minute] = [ahead - 1, now + 10 * CLAIM_S]
        return 0.0

    def _take(self, caller: str, per_minute: int, count: int) -> float:
        """Take `count` requests, all or none."""
        name = int.from_bytes(hashlib.blake2b(caller.encode(), digest_size=8).digest(), signed=True) or 1
        interval = 60.0 / per_minute
        # At least one request can always be saved up, or a small limit would never let one through.
        burst = max(BURST_S, interval)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            now = self._clock()
            offset, empty_at = self._find(name, now)
            if not now - 1 < empty_at <= now + burst + 60:  # of another time since start, or none
                empty_at = now
            end = max(empty_at, now) + count * interval
            wait = end - (now + burst)
            if wait > 1e-9:
                return wait
            _SLOT.pack_into(self._memory, offset, name, end)
            return 0.0
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _find(self, name: int, now: float) -> tuple[int, float]:
        """The caller's slot; else one whose caller has nothing to wait for; else the nearest to that."""
        oldest, oldest_at = 0, float("inf")
        for step in range(_PROBES):
            offset = ((name + step) % SLOTS) * _SLOT.size
            owner, empty_at = _SLOT.unpack_from(self._memory, offset)
            if owner == name:
                return offset, empty_at
            if empty_at < oldest_at:
                oldest, oldest_at = offset, empty_at
        return oldest, 0.0

    def close(self) -> None:
        self._memory.close()
        os.close(self._file)
