"""The profile says what is true of a column, and says so when it estimates."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.data.profile import profile_column
from leptonai.data.schema import Column


def profile(values, kind: str) -> dict:
    return profile_column(Column("x", kind), pa.chunked_array([values]))


def test_numbers():
    found = profile(pa.array([1.0, 2.0, None, 4.0, float("inf")]), "number")
    assert found["missing"] == 1
    assert found["infinite"] == 1
    assert (found["min"], found["max"], found["distinct"]) == (1.0, 4.0, 4)
    assert (found["mean"], found["std"]) == (pytest.approx(7 / 3), pytest.approx(np.std([1, 2, 4])))
    assert sum(found["histogram"]["counts"]) == 3


@given(st.lists(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1).map(float), min_size=1))
def test_any_numbers_have_a_histogram_that_counts_them_all(values):
    found = profile(pa.array(values, pa.float64()), "number")
    finite = [value for value in values if np.isfinite(value)]
    assert sum(found.get("histogram", {"counts": []})["counts"]) == len(finite)
    json.dumps(found, allow_nan=False)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_of_any_size(values):
    found = profile(pa.array(values, pa.int64()), "integer")
    assert (found["min"], found["max"], found["distinct"]) == (min(values), max(values), len(set(values)))
    assert sum(found["histogram"]["counts"]) == len(values)


def test_few_whole_numbers_have_a_bin_each():
    assert profile(pa.array([3, 3, 5]), "integer")["histogram"] == {"counts": [2, 0, 1], "edges": [3.0, 4.0, 5.0, 6.0]}


def test_categories_texts_and_booleans():
    found = profile(pa.array(["b", "a", "b", None, "c", "a", "b"]), "category")
    assert (found["top"], found["rarest"], found["distinct"]) == ([["b", 3], ["a", 2], ["c", 1]], 1, 3)
    found = profile(pa.array(["", "ünï", "abcdef"]), "text")
    assert found["characters"] == {"min": 0, "mean": 3.0, "max": 6}
    assert (found["empty"], found["distinct"]) == (1, 3)
    assert profile(pa.array([True, None, False, True]), "boolean") == {
        "type": "boolean",
        "missing": 1,
        "distinct": 2,
        "true": 2,
        "false": 1,
    }


def test_a_column_of_nulls_says_only_that():
    assert profile(pa.nulls(3, pa.float64()), "number") == {"type": "number", "missing": 3}


@pytest.mark.parametrize("kind", ["integer", "number", "text"])
@pytest.mark.parametrize("distinct", [7, 5_000, 100_000, 1_000_000])
def test_distinct_of_many_rows_is_near(distinct, kind):
    numbers = np.random.default_rng(0).integers(0, distinct, 400_000)
    values = {"integer": numbers, "number": numbers / 7, "text": [f"order {i} of many" for i in numbers.tolist()]}[kind]
    found = profile(pa.array(values), kind)
    assert found["distinct"] == pytest.approx(len(np.unique(numbers)), rel=0.06)
    assert ("distinct_is_estimate" in found) == (distinct > 64_000)


def test_texts_of_every_length_are_counted():
    texts = ["", "a", "ab", "12345678", "123456789", "a" * 100, "a" * 50 + "b" + "a" * 49] * 40_000
    chunks = pa.chunked_array([texts[:5], texts[5:], []], pa.string())
    assert profile_column(Column("x", "text"), chunks)["distinct"] == 7


def test_moments():
    found = profile(pa.array(np.array(["2020-01-01", "2020-01-03"], "datetime64[us]")), "timestamp")
    assert (found["min"], found["max"]) == ("2020-01-01T00:00:00.000000", "2020-01-03T00:00:00.000000")
