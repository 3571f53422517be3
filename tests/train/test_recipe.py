"""A recipe reads back as it was written, and every mistake is one sentence with its line and the nearest name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.train.recipe import load_recipe, parse_recipe

RECIPE = """\
recipe: 1
task: image-classification
data:
  dataset: mnist
  target: label
model: {kind: cnn, from: mnist@2, dropout: 0.2}
train:
  epochs: 5
  batch: 128
  optimizer: adamw
  learning_rate: 1e-3
  early_stop: {on: validation.accuracy, patience: 3}
  time_budget: 1.5m
publish: {name: mnist, tags: [latest]}
"""


def test_a_recipe_is_read(tmp_path):
    (tmp_path / "mnist.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "mnist.yaml")
    assert recipe.train.learning_rate == 0.001
    assert recipe.train.time_budget == 90.0
    assert recipe.train.early_stop.on == "validation.accuracy"
    assert (recipe.model.kind, recipe.model.from_, recipe.model.options) == ("cnn", "mnist@2", {"dropout": 0.2})
    assert recipe.model_name == "mnist"


@pytest.mark.parametrize("defaults", [False, True])
def test_what_is_written_reads_back_equal(defaults):
    recipe = parse_recipe(RECIPE)
    assert parse_recipe(recipe.to_yaml(defaults)) == recipe


@given(
    epochs=st.integers(1, 10**6),
    rate=st.floats(1e-12, 1e6),
    budget=st.floats(0.001, 1e6),
    name=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
)
def test_any_recipe_reads_back_equal(epochs, rate, budget, name):
    recipe = parse_recipe(f"task: t\ndata: {{dataset: d{name}}}")
    recipe = recipe.with_values(train={"epochs": epochs, "learning_rate": rate, "time_budget": budget})
    assert parse_recipe(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("epochs", "epoch", "`epoch` in line 8: unknown; did you mean `epochs`?"),
        ("task", "tusk", "`tusk` in line 2: unknown; did you mean `task`?"),
        ("patience", "patients", "`patients` in line 12: unknown; did you mean `patience`?"),
        ("epochs", "zzz", "`zzz` in line 8: unknown; there is: epochs, batch,"),
        ("batch: 128", "batch: many", "`train.batch` in line 9: received many, expected a whole number"),
        ("batch: 128", "batch: 0", "`train.batch` in line 9: received 0, expected at least 1"),
        ("epochs: 5", "epochs: true", "`train.epochs` in line 8: received True, expected a number"),
        ("1e-3", ".inf", "`train.learning_rate` in line 11: received inf, expected a finite number"),
        ("adamw", "adamm", "Did you mean `adamw`?"),
        ("1.5m", "soon", "`train.time_budget` in line 13: received soon, expected a time such as 90s, 5m or 2h"),
        ("recipe: 1", "recipe: 2", "`recipe` in line 1: received 2, expected 1"),
        ("dataset: mnist", "target: x", "twice"),
        ("dataset: mnist", "inputs: [x]", "`data.dataset` is missing in line 3 of recipe. Add `dataset:` to it."),
        ("name: mnist", "name: ../x", "`publish.name` in line 14: received ../x, expected letters"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line(right, wrong, sentence):
    with pytest.raises(InvalidInput) as caught:
        parse_recipe(RECIPE.replace(right, wrong, 1))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_leave_rows_for_training():
    with pytest.raises(InvalidInput, match=r"`data.split` in line 2: .*expected test \+ validation below 1"):
        parse_recipe("task: t\ndata: {dataset: d, split: {test: 0.5, validation: 0.5}}")


def test_settings_win_over_the_file():
    recipe = parse_recipe(
        RECIPE, settings=["train.epochs=3", "model.width=[8, 16]", "publish=null", "data.split.seed=7"]
    )
    assert recipe.train.epochs == 3
    assert recipe.model.options == {"dropout": 0.2, "width": [8, 16]}
    assert recipe.publish is None
    assert recipe.data.split.seed == 7


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.epoch=3", "`epoch`: unknown; did you mean `epochs`?"),
        ("train.epochs=x", "`train.epochs`: received x, expected a whole number"),
        ("train.epochs", "a setting is not part.key=value"),
        ("recipe.x=1", "`recipe.x` cannot be set"),
    ],
)
def test_a_wrong_setting_does_not_blame_the_file(setting, sentence):
    with pytest.raises(InvalidInput) as caught:
        parse_recipe(RECIPE, settings=[setting])
    assert str(caught.value).startswith(sentence)


def test_a_file_that_is_no_recipe():
    with pytest.raises(InvalidInput, match="is not a recipe"):
        parse_recipe("- 1\n- 2\n")
