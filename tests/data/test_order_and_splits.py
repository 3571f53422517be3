"""An epoch's order is a permutation for every n and key; a split keeps its promises for every table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.data.importing import import_data
from leptonai.data.order import permutation
from leptonai.data.splits import split_grouped, split_rows, split_stratified

keys = st.integers(0, 2**63)


@given(n=st.integers(0, 3000), seed=keys, epoch=keys)
def test_every_row_once(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_the_order_is_a_pure_function_of_its_key():
    assert permutation(10, 0, 0).tolist() == [4, 8, 5, 2, 7, 3, 0, 6, 9, 1], (
        "stable over releases: old runs must resume"
    )
    assert np.array_equal(permutation(1000, 1, 2), permutation(1000, 1, 2))
    orders = {tuple(permutation(1000, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_is_uniform():
    """Each of 6 rows is at each of 6 places equally often: chi-square over 12,000 epochs, 25 degrees of freedom."""
    places = np.stack([permutation(6, 7, epoch) for epoch in range(12_000)])
    counts = np.stack([np.bincount(places[:, column], minlength=6) for column in range(6)])
    assert ((counts - 2000) ** 2 / 2000).sum() < 60


def test_neighbours_are_not_kept_together():
    order = permutation(100_000, 0, 0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02


fractions = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)).filter(lambda pair: sum(pair) > 0)


@given(n=st.integers(3, 500), share=fractions, seed=keys)
def test_parts_have_their_shares(n, share, seed):
    test, validation = share
    counts = np.bincount(split_rows(n, test, validation, seed), minlength=3)
    assert counts.sum() == n
    assert counts[0] > 0
    assert (counts[2] > 0) == (test > 0)
    assert (counts[1] > 0) == (validation > 0)
    assert abs(counts[2] - n * test) <= 1
    assert abs(counts[1] - n * validation) <= 1


@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=8), share=fractions, seed=keys)
def test_every_class_is_in_every_part(sizes, share, seed):
    test, validation = share
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = split_stratified(codes, list(range(len(sizes))), test, validation, seed, "label")
    for code, size in enumerate(sizes):
        counts = np.bincount(parts[codes == code], minlength=3)
        assert counts[0] > 0
        assert (counts[2] > 0) == (test > 0)
        assert (counts[1] > 0) == (validation > 0)
        # Rounding is passed on from class to class, so one class may be off by a row for each part, and by the row it must have.
        assert abs(counts[2] - size * test) <= 3
        assert abs(counts[1] - size * validation) <= 3


@given(codes=st.lists(st.integers(-1, 12), min_size=3, max_size=200).filter(lambda c: len(set(c)) >= 3), seed=keys)
def test_a_group_is_in_one_part(codes, seed):
    codes = np.array(codes)
    parts = split_grouped(codes, 0.3, 0.2, seed, "speaker")
    assert all(len(set(parts[codes == code])) == 1 for code in set(codes))
    assert set(parts) == {0, 1, 2}


def test_many_groups_come_close_to_the_shares():
    codes = np.random.default_rng(0).integers(0, 2000, 20_000)
    counts = np.bincount(split_grouped(codes, 0.2, 0.1, 0, "user")) / 20_000
    assert counts == pytest.approx([0.7, 0.1, 0.2], abs=0.005)


def table(n: int = 40) -> dict:
    return {
        "x": list(range(n)),
        "label": ["a", "b", "a", "c"] * (n // 4),
        "speaker": [f"s{i % 5}" for i in range(n)],
        "y": [i / 7 for i in range(n)],
    }


def test_split_makes_a_version(home):
    dataset = import_data("x", table(), home=home)
    parted = dataset.split(test=0.2, validation=0.1, stratify="label", seed=3)
    assert (parted.ref, parted.schema.names[-1]) == ("x@2", "split")
    rows = {part: parted.rows(part) for part in ("train", "validation", "test")}
    assert {part: len(found) for part, found in rows.items()} == {"train": 28, "validation": 4, "test": 8}
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(40))
    assert parted.table(["x"], split="test").column("x").to_pylist() == rows["test"].tolist()
    assert parted.lineage["split"] == {"test": 0.2, "validation": 0.1, "seed": 3, "stratify": "label", "group": None}
    assert dataset.split(test=0.2, validation=0.1, stratify="label", seed=3) == parted, "asked again, the same version"
    assert dataset.split(test=0.2, validation=0.1, stratify="label", seed=4).ref == "x@3"


def test_a_test_row_stays_a_test_row(home):
    dataset = import_data("x", {**table(), "split": ["train"] * 30 + ["test"] * 10}, home=home)
    parted = dataset.split(test=0.5, validation=0.1, seed=1)
    assert parted.rows("test").tolist() == list(range(30, 40))
    assert len(parted.rows("validation")) == 3
    with pytest.raises(InvalidInput, match="split already, and a test row stays a test row"):
        parted.split(test=0.3, validation=0.2, seed=2)
    assert parted.split(test=0.5, validation=0.1, seed=1) == parted


def test_groups_stay_together(home):
    parted = import_data("x", table(), home=home).split(test=0.2, validation=0.2, group="speaker")
    speakers = [
        set(parted.table(["speaker"], split=part).column(0).to_pylist()) for part in ("train", "validation", "test")
    ]
    assert [len(found) for found in speakers] == [3, 1, 1]


def test_splits_that_cannot_be(home):
    dataset = import_data("x", {**table(), "rare": ["once"] + ["often"] * 39}, home=home)
    for arguments, sentence in [
        ({"test": 1.2}, "the fraction test is not one: received 1.2"),
        ({"test": 0.6, "validation": 0.4}, "no rows are left to train on"),
        ({"test": 0, "validation": 0}, "nothing is to be split off"),
        (
            {"stratify": "rare"},
            "class 'once' of column 'rare' has 1 row, too few to be in every part: expected at least 3",
        ),
        ({"stratify": "lable"}, "Did you mean 'label'"),
        ({"stratify": "y"}, "column 'y' of type number does not tell classes"),
        ({"stratify": "label", "group": "speaker"}, "stratified or grouped, not both"),
        ({"group": "rare"}, "column 'rare' has too few groups to split: received 2"),
    ]:
        with pytest.raises(InvalidInput, match=sentence):
            dataset.split(**arguments)
    with pytest.raises(InvalidInput, match="too few rows to split"):
        import_data("tiny", {"x": [1, 2]}, home=home).split()
    with pytest.raises(InvalidInput, match=r"'split' of odd@1 holds something else than parts: received left"):
        import_data("odd", {"split": ["left", "right", "left"]}, home=home).split()


@settings(max_examples=20, deadline=None)
@given(seed=keys)
def test_rows_without_a_class_may_be_anywhere(seed):
    codes = np.array([0] * 10 + [1] * 10 + [-1])
    parts = split_stratified(codes, ["a", "b"], 0.2, 0.1, seed, "label")
    assert np.bincount(parts[codes == 0])[2] == 2
