"""Metrics agree with scikit-learn, and the public functions take what people have and refuse what means nothing."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

import leptonai as la
from leptonai.base.errors import InvalidInput
from leptonai.tasks.metrics import classification_metrics, regression_metrics, roc_auc


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_agrees_with_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, 200)
    outputs = rng.dirichlet(np.ones(classes), 200)
    found = classification_metrics(truth, outputs)
    predicted = outputs.argmax(1)
    area = (
        sk.roc_auc_score(truth, outputs[:, 1]) if classes == 2 else sk.roc_auc_score(truth, outputs, multi_class="ovr")
    )
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(truth, predicted),
            "precision": sk.precision_score(truth, predicted, average="macro"),
            "recall": sk.recall_score(truth, predicted, average="macro"),
            "f1": sk.f1_score(truth, predicted, average="macro"),
            "log_loss": sk.log_loss(truth, outputs),
            "roc_auc": area,
        }
    )


def test_an_unknown_label_counts_as_an_error_and_not_in_probabilities():
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    known, with_unknown = (
        classification_metrics(np.array([0, 1]), outputs[:2]),
        classification_metrics(np.array([0, 1, -1]), outputs),
    )
    assert with_unknown["accuracy"] == pytest.approx(2 / 3)
    assert with_unknown["log_loss"] == known["log_loss"] and with_unknown["roc_auc"] == known["roc_auc"]


def test_one_class_in_the_test_rows_has_no_area():
    outputs = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert roc_auc(np.array([0, 0]), outputs) is None
    assert "roc_auc" not in classification_metrics(np.array([0, 0]), outputs)


def test_regression_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, outputs = rng.normal(10, 2, 100), rng.normal(10, 2, 100)
    expected = {
        "rmse": sk.root_mean_squared_error(truth, outputs),
        "mae": sk.mean_absolute_error(truth, outputs),
        "r2": sk.r2_score(truth, outputs),
        "mape": sk.mean_absolute_percentage_error(truth, outputs),
    }
    assert regression_metrics(truth, outputs) == pytest.approx(expected)
    assert regression_metrics(np.r_[truth, np.nan], np.r_[outputs, 0]) == pytest.approx(expected)
    assert "mape" not in regression_metrics(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert "r2" not in regression_metrics(np.array([1.0, 1.0]), np.array([0.0, 1.0]))


@pytest.mark.parametrize("metrics", [classification_metrics, regression_metrics])
def test_no_rows_are_an_error(metrics):
    with pytest.raises(InvalidInput, match="no rows to measure"):
        metrics(np.array([]), np.empty((0, 2)) if metrics is classification_metrics else np.array([]))


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda v: np.array(v)[:, None]])
def test_public_functions_take_lists_arrays_and_series(kind):
    truth, predicted = kind([3.0, -0.5, 2.0, 7.0]), kind([2.5, 0.0, 2.0, 8.0])
    assert la.mean_squared_error(truth, predicted) == pytest.approx(0.375)
    assert la.mean_absolute_error(truth, predicted) == pytest.approx(0.5)
    assert la.r2_score(truth, predicted) == pytest.approx(0.9486081370449679)


def test_accuracy_takes_any_labels():
    assert la.accuracy_score(["a", "b", "a"], pd.Series(["a", "b", "b"])) == pytest.approx(2 / 3)
    assert la.accuracy_score(np.array([1, 2]), [1, 2]) == 1
    assert isinstance(la.accuracy_score([True], [True]), float)


FUNCTIONS = [la.mean_squared_error, la.mean_absolute_error, la.r2_score, la.accuracy_score]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_means_nothing_is_refused(function):
    with pytest.raises(InvalidInput, match="same length: received 2 and 1 values"):
        function([1.0, 2.0], [1.0])
    with pytest.raises(InvalidInput, match="nothing to compare"):
        function([], [])
    with pytest.raises(InvalidInput, match="truth has 2 missing or infinite values, the first at position 1, 2"):
        function([1.0, float("nan"), None], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("function", FUNCTIONS[:3])
def test_numbers_are_needed(function):
    with pytest.raises(InvalidInput, match="predicted must be numbers"):
        function([1.0], ["one"])
    with pytest.raises(InvalidInput, match="one value per row"):
        function([[1.0, 2.0]], [[1.0, 2.0]])


def test_r2_of_equal_values_is_refused():
    with pytest.raises(InvalidInput, match="R² needs true values that differ"):
        la.r2_score([1.0, 1.0], [1.0, 2.0])
