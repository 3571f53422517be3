"""Hashed n-grams: the same text gives the same vector wherever it stands, in any script; and what was not learned is not there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.nets.ngrams import Ngrams, Tally, hash_ngrams

TEXTS = ["where is my card", "where is my new card", "my card is lost", "top up by transfer", "the transfer failed"]


def fitted(texts=TEXTS, **options):
    ngrams = Ngrams()
    ngrams.fit(texts, **options)
    return ngrams


def distinct(text):
    """Hashes of a text: (words and neighbours, pairs apart, pieces of words)."""
    hashes = np.unique(hash_ngrams([text])[1])
    return [hashes[hashes % 4 == family] for family in range(3)]


def test_counts_words_pairs_and_pieces():
    words, apart, pieces = distinct("ab c ab d")
    assert len(words) == 3 + 3  # ab, c, d and "ab c", "c ab", "ab d"
    assert len(apart) == 3  # ab–ab, c–d with one between, ab–d with two
    assert len(pieces) == 6 + 3 + 3  # " a" "ab" "b " " ab" "ab " " ab ", " c" "c " " c ", " d" "d " " d "
    assert all(np.array_equal(a, b) for a, b in zip(distinct("  AB c\nab  d "), (words, apart, pieces)))


def test_agrees_with_scikit_learn_on_what_is_a_piece():
    from sklearn.feature_extraction.text import CountVectorizer

    count = CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    theirs = count.fit_transform(["where is my card, please"])
    _, _, ours = distinct("where is my card, please")
    assert len(ours) == theirs.shape[1]


def test_agrees_with_scikit_learn_on_vectors():
    """The same cosines between texts as TfidfVectorizer: hashing loses nothing."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True).fit_transform(TEXTS)
    words = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True).fit_transform(TEXTS)
    ngrams = fitted(least=1)
    ours = ngrams.transform(TEXTS)[:, ngrams.hashes % 4 != 1]
    expected = (pieces @ pieces.T + words @ words.T).toarray()
    np.testing.assert_allclose((ours @ ours.T).toarray(), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_a_row_does_not_depend_on_its_neighbours(texts):
    ngrams = fitted([*TEXTS, *texts], least=1)
    together = ngrams.transform(texts).toarray()
    alone = np.concatenate([ngrams.transform([text]).toarray() for text in texts])
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_chunks_change_nothing(size, monkeypatch):
    whole = fitted()
    monkeypatch.setattr("leptonai.nets.ngrams.CHUNK_CHARACTERS", size)
    parts = fitted()
    assert np.array_equal(whole.hashes, parts.hashes) and np.array_equal(whole.idf, parts.idf)
    assert np.array_equal(whole.transform(TEXTS).toarray(), parts.transform(TEXTS).toarray())


def test_keeps_what_stands_in_two_texts_and_at_most_so_many():
    assert len(fitted(least=1)) > len(fitted(least=2)) > 0
    few = fitted(least=2, most=10)
    assert len(few) == 10
    # The likeliest stay: "is", "my" and "card" stand in three texts each.
    assert few.transform(["is my card"]).nnz > 0


@pytest.mark.parametrize("text", ["", "   \n", "\x00", "zzz", "🙂"])
def test_a_text_without_known_ngrams_is_an_empty_row(text):
    assert fitted().transform([text]).nnz == 0


def test_nothing_to_transform():
    assert fitted().transform([]).shape == (0, len(fitted()))


def test_ideographs_and_emoji_are_words():
    words, _, _ = distinct("我的卡丢了")
    assert len(words) == 5 + 4
    words, _, _ = distinct("🙂🙂 card!")
    assert len(words) == 3 + 3  # 🙂, card, ! and "🙂🙂", "🙂 card", "card !"


def test_case_and_width_are_one():
    assert np.array_equal(distinct("CARD １２")[0], distinct("card 12")[0])


def test_state_rebuilds_it():
    first, second = fitted(), Ngrams()
    second.load_state(first.state())
    assert np.array_equal(first.transform(TEXTS).toarray(), second.transform(TEXTS).toarray())
    with pytest.raises(ValueError, match="belong together"):
        second.load_state({**first.state(), "ngrams.idf": first.idf[:-1]})


def test_tally_counts_across_merges():
    tally = Tally()
    for part in ([1, 2, 3], [2, 3], [3]):
        tally.add(np.array(part))
        tally.merge()
    assert tally.hashes.tolist() == [1, 2, 3] and tally.counts.tolist() == [1, 2, 3]
