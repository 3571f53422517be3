"""Our figures are scikit-learn's figures, and the intervals cover the truth as often as they say."""

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from leptonai.evaluate.classification import UNKNOWN, report_classification
from leptonai.evaluate.curves import average_precision, calibration, pr_points, roc_area, roc_points


def sample(rows, classes, seed=0, signal=1.5):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += signal
    outputs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, outputs


def value(report, name):
    return report["metrics"][name]["value"]


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_headline_metrics_equal_scikit_learn(classes):
    truth, outputs = sample(500, classes)
    report = report_classification(truth, outputs, list(range(classes)))

    predicted, hot = outputs.argmax(1), np.eye(classes)[truth]
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, predicted, average="macro")
    assert value(report, "accuracy") == sk.accuracy_score(truth, predicted)
    assert value(report, "precision") == pytest.approx(precision, abs=1e-6)
    assert value(report, "recall") == pytest.approx(recall, abs=1e-6)
    assert value(report, "f1") == pytest.approx(f1, abs=1e-6)
    assert value(report, "log_loss") == pytest.approx(sk.log_loss(truth, outputs), abs=1e-9)
    assert value(report, "brier") == pytest.approx(((outputs - hot) ** 2).sum(1).mean(), abs=1e-9)
    if classes == 2:
        assert value(report, "roc_auc") == pytest.approx(sk.roc_auc_score(truth, outputs[:, 1]), abs=1e-9)
        assert value(report, "average_precision") == pytest.approx(sk.average_precision_score(truth, outputs[:, 1]))
    else:
        assert value(report, "roc_auc") == pytest.approx(sk.roc_auc_score(truth, outputs, multi_class="ovr"), abs=1e-9)
        assert value(report, "average_precision") == pytest.approx(sk.average_precision_score(hot, outputs))


def test_figures_agree_with_the_task_s_own_metrics():
    from leptonai.tasks.metrics import classification_metrics

    truth, outputs = sample(300, 4)
    truth[:5] = -1
    report = report_classification(truth, outputs, list("abcd"))

    for name, expected in classification_metrics(truth, outputs).items():
        assert value(report, name) == pytest.approx(expected, abs=1e-6), name


def test_every_metric_has_an_interval_around_it():
    report = report_classification(*sample(400, 5), list("abcde"))

    for name, metric in report["metrics"].items():
        assert metric["low"] < metric["value"] < metric["high"], name
        assert metric["high"] - metric["low"] < 0.25, name


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    names = ["accuracy", "f1", "roc_auc", "average_precision", "log_loss", "brier"]
    real = report_classification(*sample(200_000, 3, seed=99), [0, 1, 2], count=1)
    covered = dict.fromkeys(names, 0)
    for seed in range(200):
        found = report_classification(*sample(150, 3, seed=seed), [0, 1, 2], seed=seed, count=200)["metrics"]
        for name in names:
            covered[name] += found[name]["low"] <= value(real, name) <= found[name]["high"]
    assert all(180 <= count <= 198 for count in covered.values()), covered  # 190 ± 2.6 standard deviations


def test_roc_and_pr_intervals_equal_those_of_a_plain_bootstrap():
    truth, outputs = sample(250, 2, signal=1.0)
    scores = np.round(outputs[:, 1], 2)  # with ties
    outputs = np.column_stack([1 - scores, scores])
    report = report_classification(truth, outputs, [0, 1])

    generator, draws = np.random.default_rng(5), []
    for _ in range(300):
        rows = generator.integers(0, 250, 250)
        draws.append(
            [sk.roc_auc_score(truth[rows], scores[rows]), sk.average_precision_score(truth[rows], scores[rows])]
        )
    plain = np.percentile(draws, [2.5, 97.5], axis=0)
    for column, name in enumerate(["roc_auc", "average_precision"]):
        ours = [report["metrics"][name]["low"], report["metrics"][name]["high"]]
        np.testing.assert_allclose(ours, plain[:, column], atol=0.02)


def test_influences_are_the_derivatives_of_the_areas():
    truth, outputs = sample(60, 2)
    positive, scores = truth == 1, np.round(outputs[:, 1], 1)
    for area, theirs in ((roc_area, sk.roc_auc_score), (average_precision, sk.average_precision_score)):
        value, influence = area(positive, scores)
        assert value == pytest.approx(theirs(positive, scores))
        assert influence.sum() == pytest.approx(0, abs=1e-9)
        for row in range(0, 60, 7):
            weights = np.ones(60)
            weights[row] += 1e-6
            slope = (theirs(positive, scores, sample_weight=weights) - value) / 1e-6
            assert influence[row] == pytest.approx(slope, abs=1e-4)


def test_the_same_seed_gives_the_same_report():
    assert report_classification(*sample(100, 3), "abc", seed=4) == report_classification(
        *sample(100, 3), "abc", seed=4
    )


def test_a_faultless_model_is_not_certain():
    truth = np.arange(20) % 2
    report = report_classification(truth, np.eye(2)[truth], ["a", "b"])

    for name in ("accuracy", "precision", "recall", "f1"):
        assert report["metrics"][name]["value"] == 1
        assert 0.8 < report["metrics"][name]["low"] < 0.9


def test_labels_that_the_model_never_saw_are_errors():
    truth, outputs = sample(100, 3)
    truth[:10] = -1
    report = report_classification(truth, outputs, ["a", "b", "c"])

    assert value(report, "accuracy") == (outputs.argmax(1) == truth).mean()
    assert report["per_class"][-1]["class"] == UNKNOWN
    assert report["per_class"][-1]["support"] == 10
    assert report["confusion"]["labels"] == ["a", "b", "c", UNKNOWN]
    assert sum(report["confusion"]["matrix"][3]) == 10


def test_per_class_equals_scikit_learn():
    truth, outputs = sample(400, 4)
    entries = report_classification(truth, outputs, list("abcd"))["per_class"]

    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, outputs.argmax(1))
    assert [entry["class"] for entry in entries] == list("abcd")
    np.testing.assert_allclose([entry["precision"]["value"] for entry in entries], precision)
    np.testing.assert_allclose([entry["recall"]["value"] for entry in entries], recall)
    np.testing.assert_allclose([entry["f1"] for entry in entries], f1)
    assert [entry["support"] for entry in entries] == support.tolist()


def test_confusion_matrix_and_its_largest_cells():
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 0, 2])
    found = report_classification(truth, np.eye(3)[predicted], ["cat", "dog", "owl"])["confusion"]

    assert found["matrix"] == sk.confusion_matrix(truth, predicted).tolist()
    assert found["most"][0] == {"true": "cat", "predicted": "dog", "rows": 2, "share": pytest.approx(2 / 3)}


def test_a_class_without_rows_and_one_that_is_all_rows():
    report = report_classification(np.zeros(10, np.int64), np.tile([0.7, 0.2, 0.1], (10, 1)), list("abc"))

    assert value(report, "accuracy") == 1
    assert "roc_auc" not in report["metrics"]
    assert [entry["class"] for entry in report["per_class"]] == ["a"]
    assert report["curves"] == []


def test_one_row_and_only_unknown_labels():
    assert value(report_classification(np.array([1]), np.array([[0.4, 0.6]]), "ab"), "accuracy") == 1
    report = report_classification(np.array([-1, -1]), np.array([[0.4, 0.6]] * 2), "ab")
    assert value(report, "accuracy") == 0
    assert "log_loss" not in report["metrics"]


def test_thinned_curves_keep_their_area():
    truth, outputs = sample(20_000, 2)
    positive, scores = truth == 1, outputs[:, 1]
    roc, pr = roc_points(positive, scores), pr_points(positive, scores)

    assert len(roc["threshold"]) <= 205
    assert np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"]) == pytest.approx(
        sk.roc_auc_score(positive, scores), abs=0.002
    )
    assert np.trapezoid(pr["precision"], pr["recall"]) == pytest.approx(
        sk.average_precision_score(positive, scores), abs=0.005
    )


def test_calibration_finds_a_model_that_is_too_sure():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 5000)
    honest = calibration(confidence, generator.random(5000) < confidence)
    too_sure = calibration(confidence, generator.random(5000) < confidence - 0.2)

    assert honest["ece"] < 0.03
    assert too_sure["ece"] == pytest.approx(0.2, abs=0.03)
    assert sum(part["rows"] for part in honest["bins"]) == 5000
    assert all(part["low"] <= part["accuracy"] <= part["high"] for part in honest["bins"])


def test_ten_thousand_rows_of_77_classes_take_seconds():
    truth, outputs = sample(10_000, 77, signal=2.5)
    start = time.process_time()
    report = report_classification(truth, outputs, [f"intent {i}" for i in range(77)])

    assert report["resamples"] == 1000
    assert time.process_time() - start < 5
