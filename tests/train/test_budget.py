"""Lengths of training as people write them."""

import pytest

from leptonai.base.errors import InvalidInput
from leptonai.train.budget import Clock, Span, seconds


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("5 epochs", 5, "epochs"), ("1 Epoch", 1, "epochs"), ("1000 steps", 1000, "steps"), (7, 7, "steps"), ("90s", 90, "seconds"),
     ("1.5 min", 90, "seconds"), ("2h", 7200, "seconds")],
)  # fmt: skip
def test_lengths(text, value, unit):
    assert Span.parse(text) == Span(value, unit)


@pytest.mark.parametrize(
    "text",
    ["", "5", "five epochs", "0 steps", "-1 steps", "1.5 epochs", "5 apples", None, True, float("nan"), float("inf")],
)
def test_what_is_no_length_is_refused(text):
    with pytest.raises(InvalidInput, match="not a length of training"):
        Span.parse(text)


def test_steps_of_a_length():
    assert [Span.parse(text).steps(per_epoch=10) for text in ("3 epochs", "25 steps", "1m")] == [30, 25, None]


def test_a_bare_number_is_seconds_where_a_time_is_meant():
    assert seconds(1.5) == 1.5 and seconds("5m") == 300
    with pytest.raises(InvalidInput, match="not a time"):
        seconds("5 epochs")


def test_the_clock_leaves_time_for_a_step_a_checkpoint_and_the_caller():
    clock = Clock()
    clock.start([None, 100.0, 200.0])
    assert clock.limit_s == 100 and not clock.is_late()
    clock.earlier_s = 60.0
    assert not clock.is_late() and clock.progress() == pytest.approx(0.6, abs=0.05)
    clock.reserve_s, clock.save_s = 30.0, 15.0
    assert clock.is_late()
