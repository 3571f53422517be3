"""MLP, linear and LightGBM on tables: what each must get right besides the conformance of tests/tasks."""

import time

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from leptonai.base.errors import InvalidInput
from leptonai.nets.registry import build

RNG = np.random.default_rng(0)
N = 400
NUMBERS = RNG.normal(5, 3, (N, 3))
CATEGORIES = RNG.integers(2, 5, (N, 1))
TABLE = {"numbers": NUMBERS, "categories": CATEGORIES}
SIZES = {"numbers": 3, "categories": [5], "missing": []}


def linear(outputs, l2, numbers=3, categories=(), missing=()):
    sizes = {"numbers": numbers, "categories": list(categories), "missing": list(missing), "outputs": outputs}
    return build("linear", sizes | {"l2": l2})


def boosting(outputs, **config):
    return build("lightgbm", {"numbers": 3, "categories": [5], "outputs": outputs} | config)


def test_without_penalty_linear_is_least_squares():
    target = NUMBERS @ [1.0, -2.0, 0.5] + RNG.normal(size=N)
    ours = linear(1, 0)
    ours.fit({"numbers": NUMBERS}, target)
    assert np.allclose(
        ours.predict({"numbers": NUMBERS}), LinearRegression().fit(NUMBERS, target).predict(NUMBERS), atol=1e-10
    )


def test_ridge_agrees_with_scikit_learn_on_the_same_design():
    target = NUMBERS[:, 0] + np.array([0.0, 0.0, 5.0, -5.0, 1.0])[CATEGORIES[:, 0]]
    ours = linear(1, 2.0, categories=[5])
    ours.fit(TABLE, target)
    design = np.hstack([(NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0), np.eye(5)[CATEGORIES[:, 0]]])
    assert np.allclose(ours.predict(TABLE), Ridge(alpha=2.0).fit(design, target).predict(design), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_agrees_with_scikit_learn(classes):
    target = np.digitize(NUMBERS[:, 0] + RNG.normal(size=N), [5, 8][: classes - 1])
    ours = linear(classes, 1.0)
    ours.fit({"numbers": NUMBERS}, target)
    standard = (NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0)
    expected = LogisticRegression().fit(standard, target).predict_proba(standard)
    raw = ours.predict({"numbers": NUMBERS}).astype(np.float64)
    assert np.allclose(np.exp(raw) / np.exp(raw).sum(1, keepdims=True), expected, atol=1e-5)


def test_a_column_that_is_empty_in_new_training_rows_adds_nothing():
    """A model that is fitted again keeps its columns, whatever the new rows hold."""
    numbers = NUMBERS.copy()
    numbers[:, 2] = np.nan
    ours = linear(1, 1.0)
    ours.fit({"numbers": numbers}, NUMBERS[:, 0])
    assert np.isfinite(ours.predict({"numbers": NUMBERS})).all()


def test_many_categories_are_fitted_sparsely_and_alike():
    codes = RNG.integers(0, 300, (N, 1))
    target = codes[:, 0] / 100.0
    ours = linear(1, 0.01, numbers=0, categories=[300])
    ours.fit({"categories": codes}, target)
    known = codes[:, 0] != 1
    assert np.abs(ours.predict({"categories": codes}) - target)[known].max() < 0.05
    assert ours.predict({"categories": np.array([[1]])})[0] == pytest.approx(ours.bias[0]), "unknown adds nothing"


def test_a_class_that_training_lacks_is_never_likely():
    ours = linear(3, 1.0)
    ours.fit({"numbers": NUMBERS}, np.where(NUMBERS[:, 0] > 5, 2, 0))
    raw = ours.predict({"numbers": NUMBERS})
    assert np.isfinite(raw).all() and (raw.argmax(1) != 1).all()


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("kind", ["linear", "lightgbm"])
def test_weights_of_rows_matter(kind, outputs):
    """Two rows that contradict each other: the heavy one wins."""
    numbers = np.repeat([[0.0], [1.0]], 200, axis=0)
    target = np.tile([0, 1], 200) if outputs > 1 else np.tile([-1.0, 1.0], 200)
    if outputs == 3:
        target[:3] = 2
    config = {"rounds": 20, "folds": 2} if kind == "lightgbm" else {"missing": []}
    network = build(kind, {"numbers": 1, "categories": [], "outputs": outputs} | config)
    network.fit({"numbers": numbers}, target, weights=np.tile([1.0, 9.0], 200))
    raw = network.predict({"numbers": numbers})
    assert (raw > 0.3).all() if outputs == 1 else (raw.argmax(1) == 1).all()


def test_missing_numbers_get_an_indicator():
    numbers = np.where(RNG.random((N, 1)) < 0.5, np.nan, 1.0)
    target = np.isnan(numbers[:, 0]).astype(float)
    ours = linear(1, 1e-6, numbers=1, missing=[0])
    ours.fit({"numbers": numbers}, target)
    assert np.allclose(ours.predict({"numbers": numbers}), target, atol=1e-4)


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_boosting_learns_and_comes_back_from_arrays(outputs, folds):
    signal = NUMBERS[:, 0] + 4 * (CATEGORIES[:, 0] == 3)
    target = (
        (signal - signal.mean()) / signal.std() if outputs == 1 else np.digitize(signal, np.linspace(2, 9, outputs - 1))
    )
    network = boosting(outputs, folds=folds, rounds=80)
    network.fit(TABLE, target)
    raw = network.predict(TABLE)
    if outputs == 1:
        assert np.corrcoef(raw, target)[0, 1] > 0.9
    else:
        assert raw.shape == (N, outputs) and (raw.argmax(1) == target).mean() > 0.75
    state = network.state()
    assert {array.dtype for array in state.values()} == {np.dtype(np.uint8)} and len(state) == folds
    again = boosting(outputs, folds=folds, rounds=80)
    again.load_state(state)
    assert np.array_equal(again.predict(TABLE), raw)
    assert network.importance().argmax() in (0, 3) and network.importance().sum() == pytest.approx(1)


def test_boosting_stops_early_by_the_given_validation_rows():
    target = RNG.integers(0, 2, N)  # noise: more rounds only make it worse
    rounds = []
    network = boosting(2, folds=1, rounds=2_000)
    network.fit(
        TABLE,
        target,
        validation=(TABLE, 1 - target),
        progress=lambda done, most, loss: rounds.append((done, most, loss)),
    )
    assert len(rounds) < 500 and network.boosters[0].num_trees() < 20
    assert rounds[0][:2] == (1, 2_000) and np.isfinite(rounds[0][2])


def test_boosting_keeps_its_deadline():
    numbers = RNG.normal(size=(20_000, 20))
    target = (numbers[:, 0] * numbers[:, 1] > 0).astype(np.int64)
    network = build(
        "lightgbm", {"numbers": 20, "categories": [], "outputs": 2, "learning_rate": 0.001, "rounds": 100_000}
    )
    began = time.process_time(), time.monotonic()
    network.fit({"numbers": numbers}, target, deadline=time.monotonic() + 3)
    assert 0.5 < time.monotonic() - began[1] < 6
    assert len(network.boosters) >= 1 and network.predict({"numbers": numbers}).shape == (20_000, 2)


def test_a_deadline_that_has_passed_still_gives_a_model():
    for kind, config in (("lightgbm", {}), ("linear", {"missing": []})):
        network = build(kind, {"numbers": 3, "categories": [5], "outputs": 2} | config)
        network.fit(TABLE, (NUMBERS[:, 0] > 5).astype(np.int64), deadline=time.monotonic() - 1)
        assert np.isfinite(network.predict(TABLE)).all()


@pytest.mark.parametrize("option", [{"rounds": 0}, {"leaves": 1}, {"learning_rate": 0}, {"columns": 1.5}, {"folds": 0}])
def test_options_of_boosting_are_checked(option):
    with pytest.raises(InvalidInput, match="LightGBM cannot use these options"):
        boosting(2, **option)
    with pytest.raises(InvalidInput, match="l2 must not be negative"):
        linear(2, -1)


def test_the_default_is_not_below_scikit_learns_boosting():
    """Made data with an interaction, a category and noise; the floor that a default must reach."""
    rng = np.random.default_rng(1)
    numbers, categories = rng.normal(size=(1_500, 8)), rng.integers(2, 12, (1_500, 1))
    signal = numbers[:, 0] * numbers[:, 1] + numbers[:, 2] + np.sin(categories[:, 0] * 2.0)
    target = (signal + rng.normal(size=1_500) > 0).astype(np.int64)
    train, test = np.arange(1_000), np.arange(1_000, 1_500)
    network = build("lightgbm", {"numbers": 8, "categories": [12], "outputs": 2})
    network.fit({"numbers": numbers[train], "categories": categories[train]}, target[train])
    raw = network.predict({"numbers": numbers[test], "categories": categories[test]})
    floor = HistGradientBoostingClassifier(categorical_features=[8], random_state=0)
    design = np.hstack([numbers, categories])
    floor.fit(design[train], target[train])
    ours = roc_auc_score(target[test], raw[:, 1])
    assert ours > roc_auc_score(target[test], floor.predict_proba(design[test])[:, 1]) - 0.005


def test_mlp_bounds_outliers_and_keeps_large_numbers_apart():
    network = build("mlp", {"numbers": 1, "missing": [0], "categories": [], "outputs": 1, "dropout": 0.0})
    network.set_statistics([1.7e9], [10.0])
    first = network.inputs(torch.tensor([[1.7e9], [1.7e9 + 1], [1e300], [float("nan")]], dtype=torch.float64))
    assert first[0, 0] == 0 and first[1, 0] == pytest.approx(0.1, abs=1e-3), "float32 would have lost the 1"
    assert first[2, 0] == pytest.approx(3, abs=1e-3) and first[3].tolist() == [0.0, 1.0]


def test_mlp_takes_a_batch_of_one_row_in_training():
    network = build("mlp", SIZES | {"outputs": 2}).train()
    raw = network(torch.from_numpy(NUMBERS[:1]), torch.from_numpy(CATEGORIES[:1]))
    assert raw.shape == (1, 2) and raw.isfinite().all()


def test_unknown_and_missing_categories_start_at_zero():
    network = build("mlp", SIZES | {"outputs": 2})
    weight = network.inputs.embeddings[0].weight
    assert (weight[:2] == 0).all() and (weight[2:] != 0).all()
