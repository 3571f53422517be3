"""Labels keep their order and JSON type, and what cannot be learned is said before training."""

import json

import numpy as np
import pytest

from leptonai.base.errors import InvalidInput
from leptonai.tasks.labels import Labels


def fit(values, rows=None):
    column = values if isinstance(values, list) else np.asarray(values)
    return Labels.fit(column, np.arange(len(values)) if rows is None else rows, "label")


@pytest.mark.parametrize(
    ("values", "classes", "kind"),
    [
        (["b", "a", "b", "a"], ["a", "b"], "string"),
        (np.array([10, 9, 10, 9]), [9, 10], "integer"),
        (np.array([True, False, True, False]), [False, True], "boolean"),
        (np.array([1.0, 0.0, 1.0, 0.0]), [0, 1], "integer"),
        (np.array([0.5, 1.5, 0.5, 1.5]), [0.5, 1.5], "number"),
    ],
)
def test_labels_keep_their_json_type(values, classes, kind):
    labels = fit(values)
    assert labels.classes == classes and labels.json_type == kind
    assert [type(label) for label in labels.classes] == [type(label) for label in classes]
    answer = labels.scores(np.array([[0.2, 0.8]]))[0]
    assert answer["label"] == classes[1] and json.loads(json.dumps(answer)) == answer
    again = Labels(json.loads(json.dumps(labels.classes)))
    assert again.numbers(values).tolist() == labels.numbers(values).tolist()


def test_a_label_seen_once_is_named():
    with pytest.raises(InvalidInput, match=r"1 label of 'label' occur in one row only.*'rare'.*at least 2 rows"):
        fit(["a", "b", "a", "b", "rare"])


def test_a_label_seen_once_in_training_and_once_in_test_is_learned():
    assert fit(["a", "b", "a", "b", "c", "c"], np.arange(5)).classes == ["a", "b", "c"]


def test_one_class_only_is_refused():
    with pytest.raises(InvalidInput, match="'label' has only one class"):
        fit(["a", "a", "a"])


def test_missing_labels_are_counted_with_their_rows():
    with pytest.raises(InvalidInput, match="'label' is missing in 2 training rows, the first: 1, 3"):
        fit(["a", None, "b", None, "a", "b"])
    with pytest.raises(InvalidInput, match="is missing in 1 training row, the first: 2"):
        fit(np.array([1.0, 0.0, np.nan, 1.0, 0.0]))


def test_a_label_that_was_not_in_training_has_number_minus_one():
    labels = fit(["a", "b", "a", "b"])
    assert labels.numbers(["b", "new", None]).tolist() == [1, -1, -1]


def test_the_same_labels_are_known_in_another_column_type():
    """A later version of the data may hold 0 and 1 as numbers with gaps, or as text."""
    labels = fit(np.array([0, 1, 0, 1]))
    assert labels.numbers(np.array([1.0, 0.0, np.nan, 0.5])).tolist() == [1, 0, -1, -1]
    assert labels.numbers(["1", "0", "x"]).tolist() == [1, 0, -1]
    assert fit(["0", "1", "0", "1"]).numbers(np.array([1, 0])).tolist() == [1, 0]
    assert fit(np.array([True, False, True, False])).numbers(np.array([1, 0])).tolist() == [1, 0]


def test_a_clients_label_is_looked_up_with_its_type():
    labels = fit(np.array([0, 1, 0, 1]))
    assert labels.number(1) == 1
    assert labels.number(True) is None and labels.number("1") is None and labels.number([1]) is None


def test_many_classes_show_the_ten_likeliest():
    labels = Labels([f"class {i:03}" for i in range(150)])
    outputs = np.random.default_rng(0).dirichlet(np.ones(150), 4).astype(np.float32)
    for row, answer in zip(outputs, labels.scores(outputs), strict=True):
        assert len(answer["scores"]) == 10
        assert answer["label"] == next(iter(answer["scores"])) == labels.classes[row.argmax()]
    assert "enum" not in labels.schema


def test_the_schema_lists_few_classes():
    assert fit(["b", "a", "b", "a"]).schema == {"type": "string", "enum": ["a", "b"]}
