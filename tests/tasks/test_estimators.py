"""`la.LinearRegression` and `la.LogisticRegression`: scikit-learn's numbers, clear sentences, and a model that the zoo knows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import linear_model

import leptonai as la
from leptonai.base.errors import InvalidInput
from leptonai.base.home import Home


@pytest.fixture
def houses():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"area": random.normal(10, 3, 300), "rooms": random.integers(1, 6, 300)})
    frame["garden"] = random.random(300) > 0.5
    frame["price"] = 0.3 * frame.area + 2 * frame.rooms + 1.5 * frame.garden + random.normal(0, 0.5, 300)
    frame["kind"] = np.where(frame.price > frame.price.median(), "dear", "cheap")
    return frame


FEATURES = ["area", "rooms", "garden"]


def test_the_founding_example_runs_as_written(tmp_path, monkeypatch, capsys):
    pd.DataFrame({"feature": [1.0, 2.0, 3.0, 4.0], "target": [2.1, 3.9, 6.1, 7.9]}).to_csv(tmp_path / "data.csv")
    monkeypatch.chdir(tmp_path)

    la.Client("your_api_key")
    data = pd.read_csv("data.csv")
    model = la.LinearRegression()
    model.fit(data["feature"], data["target"])
    predictions = model.predict(data["feature"])
    print(la.mean_squared_error(data["target"], predictions))

    assert isinstance(predictions, np.ndarray) and predictions.shape == (4,)
    assert float(capsys.readouterr().out) == pytest.approx(0.008, abs=1e-9)


def test_linear_regression_equals_scikit_learn(houses):
    ours = la.LinearRegression().fit(houses[FEATURES], houses.price)
    theirs = linear_model.LinearRegression().fit(houses[FEATURES], houses.price)

    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict(houses[FEATURES]), theirs.predict(houses[FEATURES]), rtol=1e-9)
    assert ours.score(houses[FEATURES], houses.price) == pytest.approx(theirs.score(houses[FEATURES], houses.price))


@pytest.mark.parametrize("target", ["kind", "rooms", "garden"])
def test_logistic_regression_equals_scikit_learn(houses, target):
    inputs = [name for name in ("area", "price") if name != target]
    ours = la.LogisticRegression().fit(houses[inputs], houses[target])
    theirs = linear_model.LogisticRegression(max_iter=1000).fit(houses[inputs].to_numpy(), houses[target])

    assert ours.classes_.tolist() == theirs.classes_.tolist()
    np.testing.assert_allclose(
        ours.predict_proba(houses[inputs]), theirs.predict_proba(houses[inputs].to_numpy()), rtol=1e-9
    )
    assert (ours.predict(houses[inputs]) == theirs.predict(houses[inputs].to_numpy())).all()
    assert ours.score(houses[inputs], houses[target]) == pytest.approx(
        (ours.predict(houses[inputs]) == houses[target]).mean()
    )


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x,
        lambda x: x.tolist(),
        lambda x: x.to_numpy(),
        lambda x: x.to_frame(),
        lambda x: x.to_numpy()[:, None],
        lambda x: pa.table({"area": x}),
        lambda x: {"area": x.tolist()},
    ],
    ids=["series", "list", "array", "frame", "column", "arrow", "dict"],
)
def test_one_feature_in_every_shape_gives_the_same_line(houses, shape):
    model = la.LinearRegression().fit(shape(houses.area), houses.price)
    expected = np.polyfit(houses.area, houses.price, 1)
    np.testing.assert_allclose([model.coef_[0], model.intercept_], expected)
    assert model.predict(shape(houses.area)).shape == (300,)


def test_columns_are_found_by_name_whatever_their_order(houses):
    model = la.LinearRegression().fit(houses[FEATURES], houses.price)
    np.testing.assert_array_equal(model.predict(houses), model.predict(houses[FEATURES]))
    np.testing.assert_array_equal(model.predict(houses[FEATURES[::-1]]), model.predict(houses[FEATURES]))


def test_a_constant_column_has_no_weight_and_does_no_harm(houses):
    model = la.LinearRegression().fit(houses.assign(one=1.0)[["area", "one"]], houses.price)
    assert model.coef_[1] == 0


def test_a_published_regression_is_a_model_of_the_zoo(houses, tmp_path):
    home = Home(tmp_path)
    model = la.LinearRegression().fit(houses[FEATURES], houses.price)

    entry = model.publish("prices", home=home)
    loaded = la.load("prices@1", home=home)

    assert entry.ref == "prices@1" and entry.manifest.network["kind"] == "linear"
    served = [row["value"] for row in loaded.predict(houses[FEATURES].head(20))]
    np.testing.assert_allclose(served, model.predict(houses[FEATURES].head(20)), rtol=1e-9)
    assert loaded.manifest.task == "tabular-regression"
    assert loaded.manifest.metrics["train"]["rows"] == 300
    assert list(loaded.task.request_schema["properties"]) == FEATURES
    whole = {"area": float(houses.area.mean()), "rooms": 3, "garden": True}
    assert loaded.predict({**whole, "area": None})["value"] == pytest.approx(loaded.predict(whole)["value"])


@pytest.mark.parametrize("target", ["kind", "rooms", "garden"])
def test_a_saved_classification_answers_with_the_same_probabilities(houses, tmp_path, target):
    model = la.LogisticRegression().fit(houses[["area", "price"]], houses[target])

    loaded = la.load(model.save(tmp_path / "model"))

    answers = loaded.predict(houses[["area", "price"]].head(10))
    assert [answer["label"] for answer in answers] == model.predict(houses.head(10)).tolist()
    assert type(answers[0]["label"]) is type(model.classes_.tolist()[0])
    best = model.predict_proba(houses.head(10)).max(1)
    np.testing.assert_allclose([answer["score"] for answer in answers], best, atol=1e-6)


WRONG = {
    "NaN": (lambda d: (d.area.where(d.area > 9), d.price), r"missing or not finite in \d+ of 300 rows"),
    "infinite": (lambda d: (d.area.replace(d.area[7], np.inf), d.price), "the first: 7"),
    "NaN target": (lambda d: (d.area, d.price.where(d.price > 9)), "column 'price' is missing"),
    "text": (lambda d: (d[["area", "kind"]], d.price), "column 'kind' does not hold numbers"),
    "lengths": (lambda d: (d.area, d.price[:5]), "received 300 and 5 rows"),
    "empty": (lambda d: ([], []), "nothing to learn from"),
    "ragged": (lambda d: ([[1, 2], [3]], [1, 2]), "unequal lengths"),
    "cube": (lambda d: (np.zeros((3, 2, 2)), [1, 2, 3]), "one column or a table"),
    "number": (lambda d: (3, 4), "one column or a table"),
    "dates": (lambda d: (pd.to_datetime(d.rooms), d.price), "holds dates"),
    "two targets": (lambda d: (d.area, d[["price", "rooms"]]), "the target must be one column"),
    "names twice": (lambda d: (pd.concat([d.area, d.area], axis=1), d.price), "same name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(houses, case):
    make, sentence = WRONG[case]
    with pytest.raises(InvalidInput, match=sentence):
        la.LinearRegression().fit(*make(houses))


def test_wrong_labels_and_wrong_use_are_sentences(houses):
    with pytest.raises(InvalidInput, match="only one class"):
        la.LogisticRegression().fit(houses.area, ["a"] * 300)
    with pytest.raises(InvalidInput, match="fractions"):
        la.LogisticRegression().fit(houses.area, houses.price)
    with pytest.raises(InvalidInput, match="a label in every row"):
        la.LogisticRegression().fit(houses.area, houses.kind.where(houses.rooms > 1))
    with pytest.raises(InvalidInput, match="a number above 0"):
        la.LogisticRegression(C=0)
    with pytest.raises(InvalidInput, match="has not been fitted"):
        la.LinearRegression().predict([1.0])
    fitted = la.LinearRegression().fit(houses[FEATURES], houses.price)
    with pytest.raises(InvalidInput, match="no column 'garden'"):
        fitted.predict(houses[["area", "rooms"]])
    with pytest.raises(InvalidInput, match=r"Write one row as \[\["):
        fitted.predict([10.0, 3.0, 1.0])
