"""Slices: the bad one is found, chance is not blamed, and every row is in one slice of each column."""

import numpy as np
import pytest

from leptonai.base.errors import InvalidInput
from leptonai.data.schema import Column
from leptonai.evaluate.intervals import holm
from leptonai.evaluate.slices import MISSING, OTHER, group_numbers, group_values, measure_slices, slice_groups


def answers(right):
    """Truth and probabilities of two classes such that row i is right where `right[i]`."""
    truth = np.arange(len(right)) % 2
    return truth, np.eye(2)[np.where(right, truth, 1 - truth)]


def test_the_slice_that_is_worse_is_flagged_and_comes_first():
    generator = np.random.default_rng(0)
    city = generator.choice(["Rome", "Oslo", "Lima", "Bern"], 2000)
    right = generator.random(2000) < np.where(city == "Lima", 0.7, 0.9)

    found = measure_slices({"city": group_values(city.tolist())}, *answers(right))

    assert found[0]["slice"] == "Lima"
    assert [entry["slice"] for entry in found if entry["flagged"]] == ["Lima"]
    assert found[0]["low"] < 0.7 < found[0]["high"]
    assert found[0]["rest"] == pytest.approx(right[city != "Lima"].mean())
    assert sum(entry["rows"] for entry in found) == 2000


def test_among_many_slices_of_pure_chance_few_are_flagged():
    generator, flagged = np.random.default_rng(1), 0
    for _ in range(20):
        names = [f"group {i}" for i in generator.integers(0, 25, 1000)]
        found = measure_slices({"g": group_values(names)}, *answers(generator.random(1000) < 0.9))
        flagged += any(entry["flagged"] for entry in found)
    assert flagged <= 4  # 1 expected at 5 %; uncorrected it would be about 12


def test_a_slice_of_a_few_rows_is_shown_and_never_accused():
    right = np.array([False] * 6 + [True] * 500)
    found = measure_slices({"g": group_values(["tiny"] * 6 + ["rest"] * 500)}, *answers(right))

    assert found[0]["slice"] == "tiny"
    assert not found[0]["flagged"]


def test_regression_slices_show_rmse():
    generator = np.random.default_rng(2)
    age = generator.uniform(20, 70, 1500)
    truth = generator.normal(size=1500)
    outputs = truth + generator.normal(size=1500) * np.where(age > 60, 3.0, 1.0)

    found = measure_slices({"age": group_numbers(age)}, truth, outputs)

    assert found[0]["flagged"]
    assert found[0]["metric"] == "rmse"
    assert found[0]["slice"] == "60.69 to 70"
    assert found[0]["low"] < found[0]["value"] < found[0]["high"]
    assert sum(entry["flagged"] for entry in found) == 1


def test_groups_cover_every_row_once():
    many = [f"v{i % 50}" for i in range(500)] + [None] * 20
    groups = group_values(many)
    assert len(groups) == 31
    assert groups[-1][0] == OTHER
    assert np.sum([mask for _, mask in groups], axis=0).tolist() == [1] * 520

    numbers = np.r_[np.linspace(0, 1, 101), np.nan, np.nan]
    groups = group_numbers(numbers)
    assert [label for label, _ in groups][-1] == MISSING
    assert len(groups) == 6
    assert np.sum([mask for _, mask in groups], axis=0).tolist() == [1] * 103


def test_few_distinct_numbers_are_their_own_slices_and_skewed_ones_merge():
    assert [label for label, _ in group_numbers(np.array([1.0, 2, 2, 3]))] == ["1", "2", "3"]
    skewed = group_numbers(np.r_[np.zeros(900), np.arange(1, 101)])
    assert np.sum([mask for _, mask in skewed], axis=0).tolist() == [1] * 1000
    assert group_numbers(np.full(4, np.nan))[0][0] == MISSING


def test_timestamps_and_booleans_have_readable_names():
    days = np.array(["2024-01-01", "2024-06-01", "NaT"], "datetime64[us]")
    labels = [label for label, _ in slice_groups(Column("day", "timestamp"), days, np.arange(3))]
    assert labels == ["2024-01-01", "2024-06-01", MISSING]
    labels = {label for label, _ in slice_groups(Column("b", "boolean"), np.array([1.0, 0.0, np.nan]), np.arange(3))}
    assert labels == {"true", "false", MISSING}


def test_images_cannot_be_slices():
    with pytest.raises(InvalidInput, match="cannot be sliced by 'image'"):
        slice_groups(Column("image", "image"), None, np.arange(3))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
