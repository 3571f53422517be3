"""Requests per minute of each caller, counted over all workers of this machine. Owns the file `limits` that they share.

GCRA: one number per caller, the moment at which its bucket is empty again. A caller may save up ten seconds' worth.
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


class SharedLimits:
    """A table of (caller's hash, moment) in memory that the workers share; a lock on the file makes each step one step."""

    def __init__(self, path: Path, clock=time.monotonic):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < SLOTS * _SLOT.size:
            os.ftruncate(self._file, SLOTS * _SLOT.size)
        self._memory = mmap.mmap(self._file, SLOTS * _SLOT.size)
        self._clock = clock

    def take(self, caller: str, per_minute: int) -> float:
        """Take one request. 0.0: it may go on; otherwise the seconds until it may be tried again, and nothing was taken."""
        if per_minute <= 0:
            return 60.0
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
            start = max(empty_at, now)
            wait = start + interval - (now + burst)
            if wait > 1e-9:
                return wait
            _SLOT.pack_into(self._memory, offset, name, start + interval)
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
