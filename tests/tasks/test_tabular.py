"""Preprocessing of tables: what becomes a feature, what is left out and why, and what a request may hold."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.data.schema import Column
from leptonai.tasks.tabular import CALENDAR, KNOWN, MISSING, UNKNOWN, TableEncoder, calendar
from leptonai.tasks.tabular_regression import TabularRegression

N = 100
ROWS = np.arange(N)


def encoder(**columns):
    """Fit on columns given as name=(type, values)."""
    inputs = [Column(name, kind) for name, (kind, _) in columns.items()]
    return TableEncoder.fit(inputs, {name: values for name, (_, values) in columns.items()}, ROWS)


def test_categories_have_codes_for_missing_and_unknown_values():
    table, _ = encoder(city=("category", (["Oslo", "Rome", None, "Lima"] * 25)))
    codes = table.encode({"city": ["Lima", "Oslo", "Rome", "Cairo", None]})["categories"][:, 0]
    assert codes.tolist() == [KNOWN, KNOWN + 1, KNOWN + 2, UNKNOWN, MISSING]
    assert table.cardinalities == [5]


def test_only_training_rows_are_learned_from():
    values = np.r_[np.zeros(50), np.ones(25) * 2, np.ones(25) * 1e9]
    table, _ = TableEncoder.fit([Column("x", "number")], {"x": values}, np.arange(75))
    assert table.features[0].high == 2
    assert table.center == [0.0]


def test_outliers_and_infinities_do_not_move_the_statistics():
    clean = np.linspace(0, 1, N)
    spoiled = np.r_[clean[:98], 1e300, np.inf]
    (before, _), (after, _) = encoder(x=("number", clean)), encoder(x=("number", spoiled))
    assert np.allclose(before.center, after.center, atol=0.02)
    assert np.allclose(before.scale, after.scale, atol=0.02)
    assert np.isnan(after.encode({"x": spoiled})["numbers"][-1, 0])
    assert after.missing_numbers == [0]


def test_columns_that_cannot_help_are_left_out_with_the_reason():
    table, dropped = encoder(
        x=("number", np.arange(N)),
        customer=("category", [f"C{i}" for i in range(N)]),
        note=("text", [f"note {i} of its own" for i in range(N)]),
        constant=("number", np.ones(N)),
        empty=("number", np.full(N, np.nan)),
        one=("category", ["a"] * N),
        photo=("image", np.zeros((N, 2, 2, 1), np.uint8)),
    )
    assert [f.column.name for f in table.features] == ["x"]
    assert "a value of its own in nearly every row (100 distinct in 100 rows)" in dropped["customer"]
    assert "text of its own" in dropped["note"]
    assert dropped["constant"] == dropped["one"] == "it has the same value in all training rows"
    assert dropped["empty"] == "it is empty in all training rows"
    assert dropped["photo"] == "a table's network cannot read type image"


def test_a_constant_with_gaps_says_something():
    table, dropped = encoder(x=("number", np.where(ROWS % 2, 1.0, np.nan)), c=("category", ["a", None] * 50))
    assert not dropped and len(table.features) == 2


def test_no_useful_column_is_an_error_that_says_why():
    with pytest.raises(InvalidInput, match=r"no input column can help.*constant: it has the same value"):
        encoder(constant=("number", np.ones(N)))


def test_a_short_text_that_repeats_is_a_category():
    table, dropped = encoder(grade=("text", ["low", "high"] * 50))
    assert not dropped and table.category_names == ["grade"]


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))
def test_calendar_is_pythons_calendar(moment):
    time_s = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    found = dict(zip(CALENDAR, [part[0] for part in calendar(np.array([time_s]))], strict=True))
    assert (found["year"], found["month"], found["day"]) == (moment.year, moment.month, moment.day)
    assert found["weekday"] == moment.weekday()
    hours = moment.hour + moment.minute / 60 + (moment.second + moment.microsecond / 1e6) / 3_600
    assert found["hour"] == pytest.approx(hours, abs=1e-6)


def test_times_may_be_dates_zones_and_objects():
    stamps = np.datetime64("2024-01-01T00:00:00", "us") + ROWS.astype("timedelta64[D]")
    table, _ = encoder(when=("timestamp", stamps))
    same = ["2024-05-01", "2024-05-01T02:00:00+02:00", "2024-05-01T00:00:00Z", datetime(2024, 5, 1)]
    rows = table.columns_of([{"when": value} for value in same])
    assert np.array_equal(np.ptp(table.encode(rows)["numbers"], axis=0), np.zeros(len(CALENDAR)))
    assert table.encode(rows)["numbers"][0, CALENDAR.index("weekday")] == 2
    assert np.isnan(table.encode(table.columns_of([{"when": None}]))["numbers"]).all()


@pytest.fixture(scope="module")
def table():
    return encoder(
        age=("number", np.arange(N, dtype=float)),
        member=("boolean", ROWS % 2 == 0),
        city=("category", ["Oslo", "Rome"] * 50),
        when=("timestamp", np.datetime64("2024-01-01", "us") + ROWS.astype("timedelta64[D]")),
    )[0]


GOOD = {"age": 30, "member": True, "city": "Oslo", "when": "2024-05-01"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": "30"}, "row 1, column 'age' cannot be used: received '30', expected a number or null"),
        ({"age": True}, "expected a number or null"),
        ({"age": [1]}, "expected a number or null"),
        ({"age": 10**400}, "expected a number below 1e308"),
        ({"member": "yes"}, "expected true, false or null"),
        ({"member": 2}, "expected true, false or null"),
        ({"city": ["Oslo"]}, "row 1, column 'city' cannot be used"),
        ({"when": "yesterday"}, "expected a date and time like"),
        ({"when": 5}, "expected a date and time like"),
    ],
)
def test_a_wrong_value_is_named(table, change, message):
    with pytest.raises(InvalidInput) as error:
        table.columns_of([GOOD, {**GOOD, **change}])
    assert message in str(error.value) and "row 1" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        dict.fromkeys(GOOD),
        {"age": float("nan")},
        {"age": float("inf")},
        {"city": "Cairo"},
        {"city": 7},
        {"more": 1},
        {"member": 0},
    ],
)
def test_missing_unknown_and_further_values_are_served(table, change):
    encoded = table.encode(table.columns_of([{**GOOD, **change}]))
    assert encoded["numbers"].shape == (1, 2 + len(CALENDAR)) and encoded["categories"].shape == (1, 1)


def test_a_mistyped_column_is_guessed(table):
    row = {("aeg" if key == "age" else key): value for key, value in GOOD.items()}
    with pytest.raises(InvalidInput, match=r"row 0 has no 'age'.*Did you mean 'age' by 'aeg'?"):
        table.columns_of([row])


def test_the_schema_says_types_and_what_training_saw(table):
    properties = table.request_schema["properties"]
    assert properties["age"] == {"type": ["number", "null"], "description": "In training from 0 to 99."}
    assert properties["member"]["type"] == ["boolean", "null"]
    assert properties["when"] == {"type": ["string", "null"], "format": "date-time"}
    assert "Known values: Oslo, Rome." in properties["city"]["description"]
    assert table.encode(table.columns_of([table.request_schema["example"]]))


def test_state_is_json_and_encodes_the_same(table):
    import json

    again = TableEncoder.from_state(json.loads(json.dumps(table.state())))
    columns = table.columns_of([GOOD, dict.fromkeys(GOOD)])
    for name, array in table.encode(columns).items():
        assert np.array_equal(again.encode(columns)[name], array, equal_nan=True)


def test_a_target_with_gaps_is_named_with_its_rows():
    task = TabularRegression([Column("x", "number")], Column("price", "number"))
    price = np.where(np.isin(ROWS, [7, 30]), np.nan, ROWS)
    with pytest.raises(InvalidInput, match="'price' is missing in 2 training rows, the first: 7, 30"):
        task.fit({"x": ROWS, "price": price}, ROWS)
    task.fit({"x": ROWS, "price": price}, np.delete(ROWS, [7, 30]))


def test_a_target_that_never_changes_is_refused():
    task = TabularRegression([Column("x", "number")], Column("price", "number"))
    with pytest.raises(InvalidInput, match="'price' has the same value in all 100 training rows"):
        task.fit({"x": ROWS, "price": np.ones(N)}, ROWS)


def test_the_target_is_standardised_and_comes_back_in_its_unit():
    task = TabularRegression([Column("x", "number")], Column("price", "number"))
    columns = {"x": ROWS, "price": 500.0 + 20 * ROWS}
    task.fit(columns, ROWS)
    target = task.encode(columns, ROWS).target
    assert abs(target.mean()) < 1e-12 and target.std() == pytest.approx(1)
    assert np.allclose(task.finish(target), columns["price"])
