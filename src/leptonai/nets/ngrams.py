"""Texts to TF-IDF vectors over hashed n-grams: words and their neighbours, pairs of words a little apart, and pieces of words.

No vocabulary of strings is kept: an n-gram is its hash of 61 bits, so a model holds numbers only, and text of any language, with or
without spaces, takes the same way. All of a batch is hashed at once by numpy; one text takes a fraction of a millisecond.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

# Characters hashed at a time: bounds the memory of a pass (about 200 bytes each) whatever the length of the texts.
CHUNK_CHARACTERS = 1_000_000
PIECES = (2, 3, 4, 5)
APART = (2, 3)
# Length of each family in a row. Pairs apart help where questions are alike, and are noise where the data is small: half.
LENGTHS = np.array([1.0, 0.5, 1.0, 0.0])
SPACE, WORD, IDEOGRAPH, SIGN = 0, 1, 2, 3
Hashed = Callable[[np.ndarray, np.ndarray], np.ndarray]
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


class Ngrams:
    """The vectoriser. `transform` is a pure function of a text and of what `fit` learned.

    `hashes` (n-grams,) are sorted; the lowest two bits of one are its family. `idf` goes with them.
    """

    def __init__(self) -> None:
        self.hashes, self.idf = np.empty(0, np.int64), np.empty(0, np.float32)

    def fit(self, texts: Sequence[str], least: int = 2, most: int = 100_000) -> None:
        """Learn which n-grams there are and how rare: the `most` frequent ones that stand in at least `least` texts.

        One that stands in a single text could only be learned by heart; where all do, all are kept.
        """
        tally = Tally()
        for part in _chunks(texts):
            tally.add(_distinct(*hash_ngrams(part)))
        tally.merge()
        hashes, counts = tally.hashes, tally.counts
        known = counts >= min(least, counts.max(initial=0))
        if known.sum() > most:
            # Ties by hash: the same texts in another order give the same n-grams.
            known = np.sort(np.lexsort((hashes, -counts))[:most])
        self.hashes = hashes[known]
        self.idf = (np.log((1 + len(texts)) / (1 + counts[known])) + 1).astype(np.float32)

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        """(n, n-grams) float32: (1 + log count) × idf, each family of a row as long as LENGTHS says."""
        import scipy.sparse as sp

        parts = [self._vectors(part) for part in _chunks(texts)]
        return parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")

    def _vectors(self, texts: Sequence[str]) -> sp.csr_matrix:
        import scipy.sparse as sp

        rows, hashes = hash_ngrams(texts)
        n, width = len(texts), max(len(self.hashes), 1)
        places = np.minimum(np.searchsorted(self.hashes, hashes), width - 1)
        known = self.hashes[places] == hashes if len(self.hashes) else np.zeros(len(hashes), bool)
        cells, counts = np.unique(rows[known] * width + places[known], return_counts=True)
        rows, places = np.divmod(cells, width)
        values = (1 + np.log(counts)) * self.idf[places]
        families = rows * 4 + (self.hashes[places] & 3)
        values /= np.sqrt(np.bincount(families, values**2))[families]
        values *= LENGTHS[families & 3]
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
        shape = (n, len(self.hashes))
        return sp.csr_matrix((values.astype(np.float32), places.astype(np.int32), starts.astype(np.int32)), shape=shape)

    def __len__(self) -> int:
        return len(self.hashes)

    def state(self) -> dict[str, np.ndarray]:
        return {"ngrams.hashes": self.hashes, "ngrams.idf": self.idf}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        hashes, idf = np.array(state["ngrams.hashes"]), np.array(state["ngrams.idf"])
        if hashes.ndim != 1 or hashes.shape != idf.shape or (np.diff(hashes) <= 0).any():
            raise ValueError("the n-grams' hashes and idf do not belong together")
        self.hashes, self.idf = hashes, idf


class Tally:
    """In how many texts each n-gram stands. New ones are merged when they outweigh the sum, so memory stays near what is distinct."""

    def __init__(self) -> None:
        self.hashes, self.counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self.pending: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> None:
        self.pending.append(hashes)
        if sum(map(len, self.pending)) > max(len(self.hashes), 4 * CHUNK_CHARACTERS):
            self.merge()

    def merge(self) -> None:
        new, counts = np.unique(np.concatenate([np.empty(0, np.int64), *self.pending]), return_counts=True)
        together, places = np.unique(np.concatenate([self.hashes, new]), return_inverse=True)
        total = np.bincount(places, np.concatenate([self.counts, counts]), minlength=len(together))
        self.hashes, self.counts, self.pending = together, total.astype(np.int64), []


def hash_ngrams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) and hashes (m,) int64 of all n-grams, repetitions too; in the lowest two bits 0: words and
    neighbours, 1: pairs apart, 2: pieces of words."""
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
    found = [*_words(kinds, rows, hashed), _pieces(kinds, rows, hashed)]
    # 61 bits of hash and two that say which family: the families are weighed apart.
    marked = [
        _mix(hashes) >> np.uint64(3) << np.uint64(2) | np.uint64(family) for family, (_, hashes) in enumerate(found)
    ]
    return np.concatenate([of for of, _ in found]), np.concatenate(marked).astype(np.int64)


def _words(kinds: np.ndarray, rows: np.ndarray, hashed: Hashed) -> list[tuple[np.ndarray, np.ndarray]]:
    """[words and pairs of neighbours, pairs of words with one or two others between].

    Words are runs of letters and digits; ideographs, signs and emoji are words by themselves.
    """
    before = np.concatenate([[SPACE], kinds[:-1]])
    starts = np.flatnonzero((kinds != SPACE) & ~((kinds == WORD) & (before == WORD)))
    after = np.concatenate([kinds[1:], [SPACE]])
    ends = np.flatnonzero((kinds != SPACE) & ~((kinds == WORD) & (after == WORD))) + 1
    words, of = hashed(starts, ends), rows[starts]
    second = _mix(words)

    def pairs(distance: int) -> tuple[np.ndarray, np.ndarray]:
        together = of[distance:] == of[:-distance]
        return of[distance:][together], words[:-distance][together] * np.uint64(3) + second[distance:][together]

    near, apart = pairs(1), [pairs(distance) for distance in APART]
    return [
        (np.concatenate([of, near[0]]), np.concatenate([words, near[1]])),
        (np.concatenate([of for of, _ in apart]), np.concatenate([hashes for _, hashes in apart])),
    ]


def _pieces(kinds: np.ndarray, rows: np.ndarray, hashed: Hashed) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of 2 to 5 characters with a space at most at their ends: they lie in one word, its edges marked."""
    spaces = np.concatenate([[0], np.cumsum(kinds == SPACE)])
    found_rows, found = [], []
    for size in PIECES:
        start = np.arange(max(len(kinds) - size + 1, 0))
        inner = spaces[start + size - 1] == spaces[start + 1]
        start = start[inner & (rows[start] == rows[start + size - 1])]
        found_rows.append(rows[start])
        found.append(hashed(start, start + size) + np.uint64(size))
    return np.concatenate(found_rows), np.concatenate(found)


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit depends on many (the middle of splitmix64, Steele et al. 2014)."""
    x = (x + np.uint64(0x632BE59BD9B4E019)) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x = x * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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


def _distinct(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The hashes of each row once: for counting in how many texts an n-gram stands."""
    order = np.lexsort((hashes, rows))
    rows, hashes = rows[order], hashes[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1])
    return hashes[new]


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
