"""Regression figures against scikit-learn, in any unit, with intervals that cover."""

import numpy as np
import pytest
from sklearn import metrics as sk

from leptonai.evaluate.regression import report_regression


def sample(rows, seed=0, scale=1.0, offset=0.0):
    generator = np.random.default_rng(seed)
    truth = generator.gamma(2, size=rows)
    return scale * truth + offset, scale * (truth + generator.normal(0, 0.5, rows) + 0.1) + offset


def values(report):
    return {name: metric["value"] for name, metric in report["metrics"].items()}


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e9, 0), (1e-9, 0), (1, 1e7)])
def test_metrics_equal_scikit_learn_in_any_unit(scale, offset):
    truth, outputs = sample(400, scale=scale, offset=offset)
    report = report_regression(truth, outputs)

    found = values(report)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, outputs), rel=1e-9)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, outputs), rel=1e-9)
    assert found["median_error"] == pytest.approx(sk.median_absolute_error(truth, outputs), rel=1e-9)
    assert found["r2"] == pytest.approx(sk.r2_score(truth, outputs), abs=1e-9)
    assert found["mape"] == pytest.approx(sk.mean_absolute_percentage_error(truth, outputs), rel=1e-9)
    for name, metric in report["metrics"].items():
        assert metric["low"] < metric["value"] < metric["high"], name
        assert metric["high"] - metric["low"] < abs(metric["value"]) * 1.0, name


def test_figures_agree_with_the_task_s_own_metrics():
    from leptonai.tasks.metrics import regression_metrics

    truth, outputs = sample(100)
    for name, expected in regression_metrics(truth, outputs).items():
        assert values(report_regression(truth, outputs))[name] == pytest.approx(expected), name


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    real = values(report_regression(*sample(200_000, seed=99), count=1))
    covered = dict.fromkeys(["rmse", "mae", "r2", "median_error"], 0)
    for seed in range(200):
        found = report_regression(*sample(200, seed=seed), seed=seed, count=200)["metrics"]
        for name in covered:
            covered[name] += found[name]["low"] <= real[name] <= found[name]["high"]
    assert all(count >= 178 for count in covered.values()), covered


def test_what_means_nothing_is_absent():
    constant = report_regression(np.full(5, 2.0), np.arange(5.0))
    assert "r2" not in constant["metrics"]
    with_zero = report_regression(np.array([0.0, 1.0, 2.0]), np.array([0.1, 1.0, 2.0]))
    assert "mape" not in with_zero["metrics"]


def test_one_row_and_exact_predictions():
    one = report_regression(np.array([3.0]), np.array([4.0]))
    assert values(one)["rmse"] == 1
    exact = report_regression(np.arange(9.0) + 1, np.arange(9.0) + 1)
    assert values(exact) == {"rmse": 0, "mae": 0, "median_error": 0, "r2": 1, "mape": 0}
    assert sum(exact["residuals"]["rows"]) == 9


def test_residuals_and_tenths_count_every_row():
    truth, outputs = sample(5000)
    report = report_regression(truth, outputs)

    assert sum(report["residuals"]["rows"]) == 5000
    assert report["residuals"]["mean"] == pytest.approx((outputs - truth).mean())
    assert len(report["residuals"]["points"]["true"]) == 600
    assert len(report["by_target"]) == 10
    assert sum(part["rows"] for part in report["by_target"]) == 5000
    low, high = report["by_target"][0], report["by_target"][-1]
    inside = truth <= low["to"]
    assert low["bias"] == pytest.approx((outputs - truth)[inside].mean(), abs=0.01)
    assert high["to"] == truth.max()
