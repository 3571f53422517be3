"""Paired tests: right where they can be checked by hand, and no more false verdicts than they promise."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from leptonai.base.errors import InvalidInput
from leptonai.data.schema import Column
from leptonai.evaluate.compare import check_comparable, compare_classification, compare_regression, mcnemar
from leptonai.evaluate.report import Report, gate


def pair(gained, lost, both=50, neither=10):
    mine = [True] * gained + [False] * lost + [True] * both + [False] * neither
    theirs = [False] * gained + [True] * lost + [True] * both + [False] * neither
    return np.array(mine), np.array(theirs)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (9, 3), (12, 12), (3, 30), (0, 8)])
def test_mcnemar_is_the_exact_binomial(gained, lost):
    n, fewer = gained + lost, min(gained, lost)
    by_hand = min(1.0, 2 * sum(binom.pmf(k, n, 0.5) for k in range(fewer + 1))) if n else 1.0

    assert mcnemar(gained, lost) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [(20, 2, "better"), (2, 20, "worse"), (5, 4, "equal"), (0, 0, "equal"), (6, 0, "better"), (5, 0, "equal")],
)
def test_verdicts_of_accuracy(gained, lost, verdict):
    found = compare_classification(*pair(gained, lost))

    assert found.verdict == verdict
    assert found.difference == pytest.approx((gained - lost) / (gained + lost + 60))
    assert found.low <= found.difference <= found.high
    assert len(found.gained) == gained
    assert len(found.lost) == lost


def test_the_interval_of_a_difference_covers():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(500):
        kind = generator.choice(4, 200, p=[0.8, 0.08, 0.04, 0.08])
        found = compare_classification(np.isin(kind, [0, 1]), np.isin(kind, [0, 2]))
        covered += found.low <= 0.04 <= found.high
    assert covered / 500 > 0.93


def test_equal_models_are_seldom_called_different():
    generator, false = np.random.default_rng(1), 0
    for seed in range(100):
        truth = generator.normal(size=80)
        mine, theirs = (truth + generator.standard_t(4, 80) for _ in range(2))
        false += compare_regression(truth, mine, theirs, seed=seed).verdict != "equal"
    assert false <= 12  # 5 expected


def test_verdicts_of_rmse():
    generator = np.random.default_rng(2)
    truth = generator.normal(size=300) * 1e6
    good, bad = truth + generator.normal(size=300) * 1e5, truth + generator.normal(size=300) * 2e5

    better, worse = compare_regression(truth, good, bad), compare_regression(truth, bad, good)

    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.high < 0 < worse.low
    assert better.difference == pytest.approx(-worse.difference)
    assert len(better.gained) > len(better.lost)
    assert compare_regression(truth, good, good).verdict == "equal"
    assert compare_regression(truth, good, good).p_value == 1


def test_a_few_rows_prove_nothing():
    assert compare_regression(np.zeros(3), np.ones(3) * 0.1, np.ones(3)).verdict == "equal"


def test_rows_must_be_the_same():
    with pytest.raises(InvalidInput, match="same rows"):
        compare_classification(np.array([True]), np.array([True, False]))


def task(classes=None, target="label", name="image-classification"):
    return SimpleNamespace(classes=classes, target=Column(target, "category"), name=name)


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (task(["a", "b"]), task(None, name="tabular-regression"), "a class, the other with a number"),
        (task(["a", "b"]), task(["a", "b"], target="mood"), "different columns"),
        (task(["a", "b"]), task(["c", "d"]), "no two classes in common"),
        (task(["1", "2"]), task([1, 2]), "no two classes in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(one, two, says):
    with pytest.raises(InvalidInput, match=says):
        check_comparable(one, two, "new@2", "old@1")


def test_an_extra_class_is_fine_and_said():
    notes = check_comparable(task(["a", "b", "c"]), task(["a", "b"]), "new@2", "old@1")

    assert len(notes) == 1
    assert "new@2 knows classes that old@1 does not ('c')" in notes[0]
    assert check_comparable(task(["a", "b"]), task(["a", "b"]), "x", "y") == []


def report(verdict, difference, higher=True):
    return Report({"comparison": {"verdict": verdict, "difference": difference, "higher_is_better": higher}})


@pytest.mark.parametrize(
    ("verdict", "difference", "higher", "tolerance", "passes"),
    [
        ("better", 0.02, True, 0, True),
        ("worse", -0.02, True, 1, False),
        ("equal", 0.0, True, 0, True),
        ("equal", 0.001, True, 0, True),
        ("equal", -0.001, True, 0, False),
        ("equal", -0.001, True, 0.002, True),
        ("equal", 0.5, False, 0, False),
        ("equal", -0.5, False, 0, True),
    ],
)
def test_the_gate(verdict, difference, higher, tolerance, passes):
    assert gate(report(verdict, difference, higher), tolerance) is passes


def test_a_gate_needs_a_comparison():
    with pytest.raises(InvalidInput, match="compares nothing"):
        gate(Report({"comparison": None}))
    with pytest.raises(InvalidInput, match="not negative"):
        gate(report("equal", 0.0), -1)
