"""`la.fit`: one line, whose decisions are said, kept as a recipe, and can be run again."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import leptonai as la
from leptonai.base.errors import InvalidInput, NotFound
from leptonai.train.recipe import parse_recipe

from .conftest import blobs_frame

ROW = {"x0": 1.5, "x1": 1.0, "x2": 2.0, "x3": 1.0}


def test_a_frame_becomes_a_model(home, capsys):
    model = la.fit(blobs_frame(), target="label")
    assert model.predict(ROW)["label"] == "yes"
    said = capsys.readouterr().err
    assert "tabular-classification, target 'label'" in said
    assert all(f"{kind}: validation accuracy" in said for kind in ("lightgbm", "linear", "mlp"))
    assert la.load("label", home).predict(ROW) == model.predict(ROW)


def test_the_recipe_of_a_fit_trains_the_same_model_again(home, blobs):
    model = la.fit("blobs", target="label", model="lightgbm", seed=3)
    again = la.train(parse_recipe(model.recipe.to_yaml()), home)
    assert again.model.predict(ROW) == model.predict(ROW)
    assert model.recipe.train.seed == 3


def test_a_straight_line_is_given_to_the_linear_model(home):
    x = np.linspace(0, 10, 400)
    frame = pd.DataFrame({"x": x, "y": 3 * x + 1 + np.random.default_rng(0).normal(scale=0.1, size=400)})
    model = la.fit(frame, target="y")
    assert model.manifest.network["kind"] == "linear"
    assert model.predict({"x": 20.0})["value"] == pytest.approx(61, abs=0.5)


def test_paths_tables_and_dataset_names_are_data(home, tmp_path):
    frame = blobs_frame()
    (tmp_path / "flowers").mkdir()
    frame.to_csv(tmp_path / "flowers" / "train.csv", index=False)
    by_path = la.fit(tmp_path / "flowers" / "train.csv", target="label", model="linear")
    assert by_path.manifest.name == "flowers"
    by_name = la.fit("flowers@1", target="label", model="linear")
    by_table = la.fit(pa.Table.from_pandas(frame), target="label", model="linear")
    assert by_path.predict(ROW) == by_name.predict(ROW) == by_table.predict(ROW)


def test_texts_are_recognised(home):
    words = {"good": ["great film", "loved the food", "very good"], "bad": ["awful film", "hated the food", "very bad"]}
    rows = [(f"{text} number {i}", label) for label, texts in words.items() for text in texts for i in range(15)]
    model = la.fit(pd.DataFrame(rows, columns=["text", "label"]), target="label")
    assert model.task.name == "text-classification"
    assert model.predict({"text": "a great and very good film"})["label"] == "good"


def test_the_time_budget_covers_all_candidates(home, blobs, capsys):
    import time

    began = time.monotonic()
    la.fit("blobs", target="label", time_budget="6s")
    assert time.monotonic() - began < 6.3


def test_a_budget_that_is_too_short_for_all_leaves_the_cheapest(home, blobs, capsys):
    model = la.fit("blobs", target="label", time_budget=0.2)
    assert model.manifest.network["kind"] == "linear"
    assert model.predict(ROW)["label"] == "yes"
    assert "mlp: not tried" in capsys.readouterr().err


def test_a_candidate_that_fails_does_not_take_the_others_with_it(home, blobs, capsys, monkeypatch):
    from leptonai.train import fit

    # The network is begun, and has no time for a step.
    monkeypatch.setattr(fit, "LEAST_S", {})
    monkeypatch.setattr(fit, "SHARES", {"linear": 0.3, "lightgbm": 0.8, "mlp": 0.0})
    model = la.fit("blobs", target="label", time_budget=20)
    assert model.manifest.network["kind"] in ("linear", "lightgbm")
    assert "mlp: left out: the time budget was used up before the first step" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="before the first step"):
        la.fit("blobs", target="label", model="mlp", time_budget=0.001)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        ({"data": "nowhere"}, NotFound, "no such dataset"),
        ({"data": "nowhere.csv"}, NotFound, "nowhere.csv"),
        ({"target": "lable"}, InvalidInput, "Did you mean 'label'?"),
        ({"task": "tabular-clasification"}, InvalidInput, "Did you mean 'tabular-classification'?"),
        ({"model": "lightgmb"}, InvalidInput, "Did you mean 'lightgbm'?"),
        ({"time_budget": "soon"}, InvalidInput, "`time_budget` is not a time: received soon"),
        ({"seed": -1}, InvalidInput, "not a seed"),
    ],
    ids=str,
)
def test_bad_calls_are_one_sentence(home, blobs, call, error, sentence):
    with pytest.raises(error) as caught:
        la.fit(**{"data": "blobs", "target": "label", **call})
    assert sentence in str(caught.value)
