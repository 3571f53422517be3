"""`lep train` and `lep runs` as a person types them; and the recipes that are shipped."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

from leptonai.base.home import Home
from leptonai.cli.main import lep
from leptonai.data.importing import import_data

ROOT = Path(__file__).parents[2]
RECIPE = "recipe: 1\ntask: tabular-classification\ndata: {dataset: blobs}\nmodel: {kind: mlp}\ntrain: {epochs: 3, batch: 32}\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    return Home.current()


@pytest.fixture
def recipe(home, tmp_path):
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200)
    frame = pd.DataFrame({"x": random.normal(size=200) + 2 * label, "z": random.normal(size=200), "label": label})
    import_data("blobs", frame, types={"label": "category"}, home=home)
    path = tmp_path / "blobs.yaml"
    path.write_text(RECIPE)
    return str(path)


def run(*arguments: str):
    return CliRunner().invoke(lep, arguments)


def test_training_ends_with_a_summary_and_what_to_type_next(home, recipe):
    result = run("train", recipe)
    assert result.exit_code == 0, result.output
    for part in (
        "tabular-classification, network mlp, blobs@1: 160 train, 20 validation, 20 test rows",
        "accuracy",
        "blobs@1",
    ):
        assert part in result.output
    assert f"Run     {home.runs / 'blobs'}" in result.output
    assert "lep serve blobs@1" in result.output


def test_json_is_for_programs(home, recipe):
    data = json.loads(run("train", recipe, "--json", "--name", "other", "--set", "train.epochs=1").stdout)
    assert data["model"] == "other@1"
    assert data["rows"] == {"train": 160, "validation": 20, "test": 20}
    assert 0 <= data["metrics"]["test"]["accuracy"] <= 1


def test_explain_prints_every_default_and_trains_nothing(home, recipe):
    result = run("train", recipe, "--explain")
    for part in ("dataset: blobs@1", "optimizer: adamw", "schedule: cosine", "checkpoint_every: 30s", "inputs: [x, z]"):
        assert part in result.output
    assert not home.runs.exists()


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_dry_run_goes_through_everything_and_keeps_nothing(home, recipe, kind):
    result = run("train", recipe, "--dry-run", "--set", f"model.kind={kind}")
    assert result.exit_code == 0, result.output
    assert "one evaluation on 20 test rows" in result.output
    assert ("one resume" in result.output) == (kind == "mlp")
    assert not home.runs.exists()
    assert not home.models.exists()


def test_mistakes_are_errors_without_a_traceback(home, recipe, tmp_path):
    from leptonai.base.errors import InvalidInput, NotFound

    (tmp_path / "typo.yaml").write_text(RECIPE.replace("epochs", "epoch"))
    for arguments, error, sentence in [
        ([str(tmp_path / "typo.yaml")], InvalidInput, "`epoch` in line 5: unknown; did you mean `epochs`?"),
        ([str(tmp_path / "none.yaml")], NotFound, "there is no file"),
        ([recipe, "--set", "data.dataset=mnist"], NotFound, "lep data import mnist PATH"),
        ([recipe, "--set", "train.optimizer=adam"], InvalidInput, "Did you mean `adamw`?"),
        ([], InvalidInput, "takes one recipe"),
        (["--resume", "nothing"], NotFound, "no such run"),
    ]:
        result = run("train", *arguments)
        assert isinstance(result.exception, error)
        assert sentence in str(result.exception)


def test_runs_are_listed_and_shown(home, recipe):
    assert "no runs yet" in run("runs", "ls").output
    run("train", recipe)
    assert "finished" in run("runs", "ls").output
    listed = json.loads(run("runs", "ls", "--json").stdout)
    assert [(one["id"], one["status"], one["model"]) for one in listed] == [("blobs", "finished", "blobs@1")]
    shown = run("runs", "show", "blobs").output
    assert "validation.accuracy" in shown
    assert "recipe.yaml" in shown
    curves = json.loads(run("runs", "show", "blobs", "--json").stdout)["curves"]
    assert len(curves["validation.accuracy"]) == 3


def test_a_stopped_run_is_resumed_by_its_name(home, recipe):
    run("train", recipe)
    record = home.runs / "blobs" / "run.json"
    assert run("train", "--resume", "blobs").exception.received == "status finished"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "stopped", "pid": 1}))
    result = run("train", "--resume", "blobs")
    assert result.exit_code == 0, result.exception
    assert f"Run     {home.runs / 'blobs'}" in result.output


# The shipped recipes, on made data of the same columns


def words(rows: int, column: str, labels: list) -> pd.DataFrame:
    random = np.random.default_rng(0)
    label = np.arange(rows) % len(labels)
    text = [f"word{n} and {random.choice(['this', 'that'])} number {i}" for i, n in enumerate(label)]
    return pd.DataFrame({"text": text, column: [labels[n] for n in label]})


def digits(home: Home, name: str, side: int) -> None:
    from leptonai.data.fields import field_of, from_array
    from leptonai.data.schema import Column

    pixels = np.random.default_rng(0).integers(0, 256, (300, side, side, 1)).astype(np.uint8)
    image, label = from_array(pixels), pa.array((np.arange(300) % 10).astype(np.int64))
    fields = [
        field_of(Column("image", "image", (side, side, 1)), image.type),
        field_of(Column("label", "integer"), label.type),
    ]
    import_data(name, pa.table([image, label], schema=pa.schema(fields)), home=home)


def table(target: str, values: np.ndarray) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame({"age": random.normal(40, 10, 300), "kind": random.choice(["a", "b"], 300), target: values})


MADE = {
    "mnist-cnn": lambda home: digits(home, "mnist", 28),
    "digits-cnn": lambda home: digits(home, "digits", 8),
    "adult-lightgbm": lambda home: import_data("adult", table("income", np.where(np.arange(300) % 3, "<=50K", ">50K")), home=home),
    "california-housing": lambda home: import_data("california-housing", table("median_house_value", np.arange(300) * 1000.5), home=home),
    "banking77": lambda home: import_data("banking77", words(300, "category", [f"c{i}" for i in range(7)]), home=home),
    "sentiment-lstm": lambda home: import_data("sentiment", words(300, "label", [0, 1]), home=home),
    "sentiment-transformer": lambda home: import_data("sentiment", words(300, "label", [0, 1]), home=home),
}  # fmt: skip


def test_every_shipped_recipe_is_tested():
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_a_shipped_recipe_runs(home, name):
    MADE[name](home)
    result = run("train", str(ROOT / "recipes" / f"{name}.yaml"), "--dry-run")
    assert result.exit_code == 0, result.exception
    assert "one evaluation" in result.output
