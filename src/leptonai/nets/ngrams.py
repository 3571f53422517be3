"""Texts to TF-IDF vectors over hashed n-grams: words and pairs of words, and pieces of words of 2 to 5 characters.

No vocabulary of strings is kept: an n-gram is its 63-bit hash, so a model holds numbers only, and text of any language, with or
without spaces, takes the same way. All of a batch is hashed at once by numpy; one text takes a fraction of a millisecond.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

# Characters hashed at a time: bounds the memory of a pass (about 200 bytes each) whatever the length of the texts.
CHUNK_CHARACTERS = 1_000_000
PIECES = (2, 3, 4, 5)
SPACE, WORD, IDEOGRAPH, SIGN = 0, 1, 2, 3
# Odd, so that it has an inverse modulo 2^64 and hashes of stretches can be told from running sums.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
# Scripts written without spaces: each character is a word of its own, and pairs of them are the pairs of words.
_UNSPACED = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
    (0x0E00, 0x0E7F),
)


@dataclass
class Channel:
    """One family of n-grams: what training knew of it. `hashes` are sorted; `idf` goes with them."""

    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    idf: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def fit(cls, found: Sequence[tuple[np.ndarray, np.ndarray]], rows: int, least: int, most: int) -> Channel:
        """From (row, hash) pairs of every chunk: the `most` frequent n-grams that stand in at least `least` of the rows."""
        hashes, counts = np.unique(np.concatenate([h for _, h in found]), return_counts=True)
        known = counts >= min(least, counts.max(initial=0))
        hashes, counts = hashes[known], counts[known]
        if len(hashes) > most:
            kept = np.sort(np.argsort(-counts, kind="stable")[:most])
            hashes, counts = hashes[kept], counts[kept]
        return cls(hashes, (np.log((1 + rows) / (1 + counts)) + 1).astype(np.float32))

    def vectors(self, rows: np.ndarray, hashes: np.ndarray, n: int) -> sp.csr_matrix:
        """(n, known n-grams) float32, rows of length 1 (or 0): (1 + log count) × idf."""
        import scipy.sparse as sp

        places = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        known = self.hashes[places] == hashes if len(self.hashes) else np.zeros(len(hashes), bool)
        width = max(len(self.hashes), 1)
        cells, counts = np.unique(rows[known] * width + places[known], return_counts=True)
        rows, places = np.divmod(cells, width)
        values = (1 + np.log(counts)).astype(np.float32) * self.idf[places]
        lengths = np.sqrt(np.bincount(rows, values.astype(np.float64) ** 2, minlength=n))
        values /= lengths[rows].astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
        return sp.csr_matrix((values, places.astype(np.int32), starts.astype(np.int32)), shape=(n, len(self.hashes)))


class Ngrams:
    """The vectoriser. `transform` is a pure function of a text and of what `fit` learned."""

    def __init__(self) -> None:
        self.words, self.pieces = Channel(), Channel()

    def fit(self, texts: Sequence[str], least: int = 2, most: int = 200_000) -> None:
        """Learn which n-grams there are and how rare; those in fewer than `least` texts could only be learned by heart."""
        words, pieces = [], []
        for part in _chunks(texts):
            hashed = hash_ngrams(part)
            words.append(_distinct(*hashed[0]))
            pieces.append(_distinct(*hashed[1]))
        self.words = Channel.fit(words, len(texts), least, most)
        self.pieces = Channel.fit(pieces, len(texts), least, most)

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        """(n, words + pieces) float32."""
        import scipy.sparse as sp

        parts = []
        for part in _chunks(texts):
            words, pieces = hash_ngrams(part)
            n = len(part)
            parts.append(sp.hstack([self.words.vectors(*words, n), self.pieces.vectors(*pieces, n)], format="csr"))
        return sp.vstack(parts, format="csr") if len(parts) != 1 else parts[0]

    def __len__(self) -> int:
        return len(self.words.hashes) + len(self.pieces.hashes)

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{name}.{part}": getattr(getattr(self, name), part)
            for name in ("words", "pieces")
            for part in ("hashes", "idf")
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        for name in ("words", "pieces"):
            setattr(self, name, Channel(np.array(state[f"{name}.hashes"]), np.array(state[f"{name}.idf"])))


def hash_ngrams(texts: Sequence[str]) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((row, hash) of words and pairs of words, (row, hash) of pieces of words), int64 each, with repetitions."""
    # A space before and after each text: pieces tell the beginning and the end of a word from its middle.
    cleaned = [f" {' '.join(unicodedata.normalize('NFKC', text).lower().split())} " for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in cleaned])
    characters = np.frombuffer("".join(cleaned).encode("utf-32-le", "replace"), np.uint32)
    powers, inverse = _powers(_BASE, len(characters)), _powers(_INVERSE, len(characters))
    sums = np.zeros(len(characters) + 1, np.uint64)
    np.cumsum(_mix(characters.astype(np.uint64)) * powers, out=sums[1:])

    def hashed(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        # Σ c[j]·B^j over the stretch, times B^-start: equal stretches are equal wherever they stand.
        return (sums[end] - sums[start]) * inverse[start]

    kinds = _kinds(characters)
    return _words(kinds, rows, hashed), _pieces(kinds, rows, hashed)


def _words(kinds: np.ndarray, rows: np.ndarray, hashed) -> tuple[np.ndarray, np.ndarray]:
    """Words are runs of letters and digits; ideographs, signs and emoji are words by themselves."""
    before = np.concatenate([[SPACE], kinds[:-1]])
    starts = np.flatnonzero((kinds != SPACE) & ~((kinds == WORD) & (before == WORD)))
    after = np.concatenate([kinds[1:], [SPACE]])
    ends = np.flatnonzero((kinds != SPACE) & ~((kinds == WORD) & (after == WORD))) + 1
    words, of = hashed(starts, ends), rows[starts]
    together = of[1:] == of[:-1]
    pairs = words[:-1][together] * np.uint64(3) + _mix(words[1:][together])
    return np.concatenate([of, of[1:][together]]), _final(np.concatenate([words, pairs]))


def _pieces(kinds: np.ndarray, rows: np.ndarray, hashed) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of 2 to 5 characters with a space at most at their ends: they lie in one word, its edges marked."""
    spaces = np.concatenate([[0], np.cumsum(kinds == SPACE)])
    found_rows, found = [], []
    for size in PIECES:
        start = np.arange(max(len(kinds) - size + 1, 0))
        inner = spaces[start + size - 1] == spaces[start + 1]
        start = start[inner & (rows[start] == rows[start + size - 1])]
        found_rows.append(rows[start])
        found.append(hashed(start, start + size) + np.uint64(size))
    return np.concatenate(found_rows), _final(np.concatenate(found))


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit depends on many (the middle of splitmix64, Steele et al. 2014)."""
    x = (x + np.uint64(0x632BE59BD9B4E019)) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x = x * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _final(x: np.ndarray) -> np.ndarray:
    return (_mix(x) >> np.uint64(1)).astype(np.int64)


def _powers(base: int, n: int) -> np.ndarray:
    """base^0 … base^(n−1) modulo 2^64."""
    factors = np.full(n, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _kinds(characters: np.ndarray) -> np.ndarray:
    """SPACE, WORD, IDEOGRAPH or SIGN of each character (n,) int8."""
    distinct, places = np.unique(characters, return_inverse=True)
    return np.array([_kind(int(c)) for c in distinct], np.int8)[places]


@cache
def _kind(character: int) -> int:
    if any(low <= character <= high for low, high in _UNSPACED):
        return IDEOGRAPH
    text = chr(character)
    # Marks (M…) belong to the letter before them, and so do joiners inside a word of Indic scripts.
    if text.isalnum() or text == "_" or unicodedata.category(text)[0] == "M":
        return WORD
    return SPACE if text.isspace() else SIGN


def _distinct(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (row, hash) once: for counting in how many texts an n-gram stands."""
    order = np.lexsort((hashes, rows))
    rows, hashes = rows[order], hashes[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1])
    return rows[new], hashes[new]


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts of about CHUNK_CHARACTERS together; one empty chunk if there are none."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text) + 2
        if size >= CHUNK_CHARACTERS:
            yield texts[start : number + 1]
            start, size = number + 1, 0
    if start < len(texts) or not len(texts):
        yield texts[start:]
