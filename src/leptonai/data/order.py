"""The order of an epoch: a permutation that is a pure function of (rows, seed, epoch). To resume is to compute it again."""

from __future__ import annotations

import hashlib

import numpy as np


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Each of 0 … n−1 once, int64, shuffled by the key (seed, epoch); the same on every machine and numpy version.

    Rows are sorted by a keyed hash of their number. The low bits of a sort key hold the row itself: keys never tie, so any
    sorting algorithm gives the same order, and numpy may use its fastest.
    """
    if n <= 1:
        return np.arange(n, dtype=np.int64)
    row_bits = np.uint64((n - 1).bit_length())
    low = (np.uint64(1) << row_bits) - np.uint64(1)
    rows = np.arange(n, dtype=np.uint64)
    keys = hash_rows(rows, f"{seed}/{epoch}")
    keys &= ~low
    keys |= rows
    keys.sort()
    keys &= low
    return keys.view(np.int64)


def hash_rows(rows: np.ndarray, key: str) -> np.ndarray:
    """Keyed SplitMix64 of uint64 numbers. Steele et al. 2014, "Fast splittable pseudorandom number generators"."""
    start, step = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], "<u8")
    with np.errstate(over="ignore"):
        # An odd step visits every state once, so distinct rows have distinct hashes.
        mixed = rows * (step | np.uint64(1)) + start
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
