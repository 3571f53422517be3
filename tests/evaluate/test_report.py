"""The whole way on real models: fit, publish, evaluate a dataset version, compare, gate, save."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import leptonai as la
from leptonai.base.errors import InvalidInput, NotFound
from leptonai.base.home import Home
from leptonai.evaluate.report import evaluate, gate


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    return Home.current()


def flowers(rows=300, seed=0):
    """Three kinds of two measures; kind `red` in the garden `north` is mislabelled half of the time."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(0, 3, rows)
    frame = pd.DataFrame(
        {
            "petal": kind * 2 + generator.normal(size=rows) * 0.6,
            "sepal": generator.normal(size=rows),
            "garden": generator.choice(["north", "south"], rows, p=[0.3, 0.7]),
            "kind": np.array(["blue", "red", "white"])[kind],
        }
    )
    swap = (frame.garden == "north") & (generator.random(rows) < 0.5)
    frame.loc[swap, "kind"] = np.where(frame.kind[swap] == "red", "blue", "red")
    return frame


def publish(frame, name, columns=("petal", "sepal"), target="kind"):
    model = la.LogisticRegression().fit(frame[list(columns)], frame[target])
    return model.publish(name)


@pytest.fixture
def classified(home):
    frame = flowers()
    publish(frame[:150], "flowers")
    return la.import_data("garden", frame[150:].reset_index(drop=True))


def test_a_classification_report(classified, home):
    report = evaluate("flowers", classified, slices=["garden", "petal"])

    model = la.load("flowers")
    predicted = [row["label"] for row in model.predict(classified)]
    truth = classified.table(["kind"]).column("kind").to_pylist()
    assert report.metrics["accuracy"]["value"] == pytest.approx(np.mean(np.array(predicted) == truth))
    assert report.metrics["accuracy"]["low"] < report.metrics["accuracy"]["value"] < report.metrics["accuracy"]["high"]
    assert report.rows == 150
    data = report.to_dict()
    assert data["model"]["ref"] == "flowers@1"
    assert data["dataset"]["ref"] == "garden@1"
    assert data["split"] == "all"
    assert "no split column, so all its rows are measured" in data["notes"][0]
    assert data["slices"][0]["slice"] == "north"
    assert data["slices"][0]["flagged"]
    worst = data["worst"][0]
    assert worst["true"] != worst["predicted"]
    assert worst["loss"] == max(entry["loss"] for entry in data["worst"])
    assert set(worst["inputs"]) == {"petal", "sepal"}
    assert worst["true"] == truth[worst["row"]]


def test_a_report_is_the_same_twice_and_is_json(classified, home):
    one, two = (evaluate("flowers", "garden", slices=["garden"]).to_dict() for _ in range(2))

    assert {**one, "created_at": 0} == {**two, "created_at": 0}
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_comparison_and_gate(classified, home):
    frame = flowers()
    worse = publish(frame[:150], "flowers", columns=("sepal",))

    up = evaluate("flowers@1", "garden", compare=worse.ref)
    down = evaluate(worse.ref, "garden", compare="flowers@1")
    same = evaluate("flowers@1", "garden", compare="flowers@1")

    assert up.comparison["other"] == "flowers@2"
    assert (up.comparison["verdict"], down.comparison["verdict"], same.comparison["verdict"]) == (
        "better",
        "worse",
        "equal",
    )
    assert (gate(up), gate(down), gate(same)) == (True, False, True)
    assert up.comparison["difference"] == pytest.approx(-down.comparison["difference"])
    gained = up.comparison["gained_rows"][0]
    assert gained["predicted"] == gained["true"] != gained["other_predicted"]
    assert up.comparison["gained"] - up.comparison["lost"] == round(up.comparison["difference"] * 150)


def test_rows_without_a_label_and_labels_never_seen(classified, home):
    frame = flowers(seed=3)
    frame.loc[:9, "kind"] = None
    frame.loc[10:14, "kind"] = "green"
    la.import_data("odd", frame)

    report = evaluate("flowers", "odd")

    assert report.rows == 290
    assert report.to_dict()["skipped"] == 10
    assert report.to_dict()["unknown_labels"] == [{"label": "green", "rows": 5}]
    assert any("never saw (green)" in note for note in report.to_dict()["notes"])


def test_a_regression_report(home):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"size": generator.uniform(1, 9, 400), "zone": generator.choice(["a", "b"], 400)})
    frame["price"] = 3 * frame["size"] + generator.normal(size=400) * np.where(frame.zone == "a", 1, 3)
    frame.loc[390:, "price"] = np.nan
    la.LinearRegression().fit(frame["size"][:200], frame["price"][:200]).publish("prices")
    dataset = la.import_data("houses", frame[200:].reset_index(drop=True), types={"zone": "category"})

    report = evaluate("prices", dataset, slices=["zone"], compare="prices")

    assert report.rows == 190
    assert report.metrics["rmse"]["low"] < report.metrics["rmse"]["value"] < report.metrics["rmse"]["high"]
    assert report.to_dict()["slices"][0]["slice"] == "b"
    assert report.to_dict()["slices"][0]["flagged"]
    assert report.comparison["verdict"] == "equal"
    assert abs(report.to_dict()["worst"][0]["error"]) == report.to_dict()["worst"][0]["loss"]


def test_the_split_decides_which_rows_are_measured(classified, home):
    split = classified.split(test=0.3, validation=0.2, seed=0)

    assert evaluate("flowers", split).rows == len(split.rows("test"))
    assert evaluate("flowers", split, split="validation").rows == len(split.rows("validation"))
    assert evaluate("flowers", split, split="all").rows == 150
    assert "training rows" in evaluate("flowers", split, split="train").warnings[0]
    with pytest.raises(InvalidInput, match="Did you mean 'test'"):
        evaluate("flowers", split, split="tset")


def with_lineage(entry, **lineage):
    model = la.load(entry.ref)
    model.manifest.lineage.update(lineage)
    return model


def test_the_rows_that_training_held_out_are_found_again(classified, home):
    from leptonai.train.rows import parts_of

    entry = publish(flowers()[:150], "flowers")
    settings = {"test": 0.2, "validation": 0.1, "seed": 7, "stratify": "kind"}
    model = with_lineage(entry, data=classified.ref, data_hash=classified.content_hash, split=settings)

    report = evaluate(model, classified)

    assert report.rows == len(parts_of(classified, settings)["test"]) == 30
    assert report.warnings == []
    assert "held out as test" in report.to_dict()["notes"][0]


def test_a_model_that_has_seen_the_rows_is_warned_about(classified, home):
    entry = publish(flowers()[:150], "flowers")
    seen = with_lineage(entry, data=classified.ref, data_hash=classified.content_hash)
    related = with_lineage(entry, data="garden@9", data_hash="0" * 64)
    own_split = with_lineage(entry, data="garden@9", data_hash="0" * 64, split={"test": 0.1, "seed": 0})

    assert "learned from it: all its rows are measured" in evaluate(seen, classified).warnings[0]
    assert "another version of garden" in evaluate(related, classified).warnings[0]
    split = classified.split(test=0.3, validation=0.2)
    assert "may have learned from some of these rows" in evaluate(own_split, split).warnings[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dataset": "gardn"}, "gard"),
        ({"model": "flowrs"}, "Did you mean 'flowers'"),
        ({"slices": ["gardn"]}, "Did you mean 'garden'"),
        ({"compare": "nothing"}, "no model 'nothing'"),
    ],
)
def test_what_is_not_there(classified, home, arguments, says):
    with pytest.raises((NotFound, InvalidInput), match=says):
        evaluate(**{"model": "flowers", "dataset": "garden", **arguments})


def test_a_dataset_without_the_columns_or_the_labels(classified, home):
    frame = flowers()
    la.import_data("blind", frame.drop(columns="sepal"))
    with pytest.raises(InvalidInput, match="no column 'sepal'"):
        evaluate("flowers", "blind")
    unlabelled = frame.astype({"kind": object})
    unlabelled["kind"] = None
    la.import_data("unlabelled", unlabelled, types={"kind": "category"})
    with pytest.raises(InvalidInput, match="none of the 300 rows"):
        evaluate("flowers", "unlabelled")


def test_a_broken_model_is_said_so(classified, home):
    model = la.load("flowers")
    model.outputs = lambda columns, rows: np.full((len(rows), 3), np.nan)

    with pytest.raises(InvalidInput, match="NaN or infinity for 150 of 150 rows"):
        evaluate(model, classified)


def test_saved_files(classified, home, tmp_path):
    report = evaluate("flowers", classified, compare="flowers", slices=["garden"])

    page = report.save(tmp_path / "out")

    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report.to_dict()
    assert page.read_text().startswith("<!doctype html>")
    assert re.fullmatch(r"flowers-1-on-garden-1-vs-flowers-1", report.title)
