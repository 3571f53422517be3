"""Recipe in, published model out: what is published, what is measured, what is kept, and what happens when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from leptonai.base.errors import InvalidInput, NotFound
from leptonai.data.importing import import_data
from leptonai.nets.registry import state_of
from leptonai.tasks.model import load
from leptonai.train.recipe import parse_recipe
from leptonai.train.rows import parts_of
from leptonai.train.trainer import Diverged, learn, train

from .conftest import BLOBS, blobs_frame


def test_a_recipe_becomes_a_published_model(home, blobs, recipe):
    result = train(recipe, home)
    assert result.entry.ref == "blobs@1"
    assert result.metrics["test"]["accuracy"] > 0.8
    assert result.metrics["test"]["rows"] == 30
    loaded = load("blobs", home)
    row = {"x0": 1.5, "x1": 1.0, "x2": 2.0, "x3": 1.0}
    assert loaded.predict(row) == result.model.predict(row)
    assert loaded.predict(row)["label"] == "yes"
    lineage = loaded.manifest.lineage
    assert (lineage["data"], lineage["data_hash"], lineage["run"]) == ("blobs@1", blobs.content_hash, result.run.id)
    assert loaded.manifest.metrics["test"]["accuracy"] == result.metrics["test"]["accuracy"]


def test_the_run_folder_tells_the_whole_story(home, blobs, recipe):
    result = train(recipe, home)
    run = json.loads((result.run.folder / "run.json").read_text())
    assert (run["status"], run["model"], run["task"]) == ("finished", "blobs@1", "tabular-classification")
    kept = parse_recipe((result.run.folder / "recipe.yaml").read_text())
    assert kept == result.recipe
    assert kept.data.dataset == "blobs@1"
    assert kept.train.early_stop.on == "validation.accuracy"
    lines = [json.loads(line) for line in (result.run.folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation.accuracy" in line for line in lines) == 4
    assert list(result.run.folder.glob("events.out.tfevents.*"))


def test_the_kept_recipe_trains_the_same_weights(home, recipe):
    first = train(recipe, home)
    again = train(parse_recipe(first.recipe.to_yaml()), home)
    assert equal(first.model, again.model)
    assert again.run.id != first.run.id


def test_another_seed_trains_other_weights_on_the_same_rows(home, recipe):
    first, second = (learn(recipe.with_values(train={"seed": seed}), home) for seed in (0, 1))
    assert not equal(first.model, second.model)
    assert all(np.array_equal(first.plan.parts[part], second.plan.parts[part]) for part in first.plan.parts)


def test_the_best_evaluation_is_published_not_the_last(home, recipe):
    """A learning rate that rises to absurdity at the end would ruin the last weights."""
    result = learn(recipe.with_values(train={"epochs": 12, "schedule": "constant", "learning_rate": 0.5}), home)
    lines = [json.loads(line) for line in (result.run.folder / "metrics.jsonl").read_text().splitlines()]
    seen = [line["validation.accuracy"] for line in lines if "validation.accuracy" in line]
    assert result.metrics["validation"]["accuracy"] == max(seen)


def test_early_stopping_ends_the_run_and_says_why(home, recipe):
    settings = {"epochs": 200, "learning_rate": 0.02, "early_stop": {"patience": 2, "on": "validation.loss"}}
    result = learn(recipe.with_values(train=settings), home)
    assert "validation.loss has not improved for 2 measurements" in result.stop_reason
    assert result.run.epoch < 100


@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.9},
        {"accumulate": 2, "clip": 0.5},
        {"precision": "bf16"},
        {"optimizer": "sgd", "schedule": "step", "learning_rate": 0.05},
        {"optimizer": "muon", "schedule": "linear", "warmup": 0.1},
        {"label_smoothing": 0.1},
    ],
    ids=str,
)
def test_every_way_to_train_learns(home, recipe, settings):
    result = learn(recipe.with_values(train={"epochs": 6, **settings}), home)
    assert result.metrics["test"]["accuracy"] > 0.8


@pytest.mark.parametrize("kind", ["lightgbm", "linear"])
def test_learners_are_trained_by_the_same_recipe(home, blobs, kind):
    result = train(parse_recipe(BLOBS).with_values(model={"kind": kind}), home)
    assert result.metrics["test"]["accuracy"] > 0.8
    assert load(result.entry.ref, home).manifest.network["kind"] == kind


def test_settings_that_a_learner_cannot_use_are_named(home, blobs, capsys):
    train(parse_recipe(BLOBS).with_values(model={"kind": "linear"}), home)
    assert "linear is not trained in steps: `train.epochs`, `train.batch` is not used" in capsys.readouterr().err


def test_a_regression_is_measured_in_the_unit_of_its_target(home):
    frame = blobs_frame()
    frame["price"] = 100_000 + 5_000 * frame.x0 - 2_000 * frame.x1
    import_data("prices", frame.drop(columns="label"), home=home)
    text = "task: tabular-regression\ndata: {dataset: prices, target: price}\nmodel: {kind: mlp}\ntrain: {epochs: 60, batch: 32}"
    result = train(parse_recipe(text), home)
    assert result.metrics["test"]["rmse"] < 0.3 * frame.price.std()


# Rows


def test_the_datasets_split_wins_and_stays_when_rows_are_appended(home, blobs, recipe):
    dataset = blobs.split(test=0.2, validation=0.1, seed=3, stratify="label")
    result = train(recipe, home)
    assert result.plan.dataset.ref == dataset.ref
    assert result.plan.split is None
    assert np.array_equal(result.plan.parts["test"], dataset.rows("test"))


def test_a_split_without_validation_gets_it_from_its_training_rows(home, blobs, recipe):
    dataset = blobs.split(test=0.2, validation=0.0, seed=3, stratify="label")
    parts = learn(recipe, home).plan.parts
    assert np.array_equal(parts["test"], dataset.rows("test"))
    assert len(parts["validation"]) == 24
    assert np.array_equal(np.sort(np.concatenate([parts["train"], parts["validation"]])), dataset.rows("train"))


def test_an_evaluation_finds_the_held_out_rows_again(home, blobs, recipe):
    result = train(recipe, home)
    again = parts_of(blobs, load("blobs", home).manifest.lineage["split"])
    assert np.array_equal(again["test"], result.plan.parts["test"])
    everything = np.sort(np.concatenate(list(again.values())))
    assert np.array_equal(everything, np.arange(blobs.num_rows))


def test_a_class_too_small_to_be_split_is_learned_from(home):
    frame = blobs_frame()
    frame.loc[[5, 250], "label"] = "maybe"
    dataset = import_data("blobs", frame, home=home)
    result = learn(parse_recipe(BLOBS), home)
    assert {5, 250} <= set(result.plan.parts["train"].tolist())
    assert dataset.num_rows == sum(len(rows) for rows in result.plan.parts.values())


# Continuing from a published model


def test_a_model_is_continued_with_its_own_preprocessing(home, blobs, recipe):
    parent = train(recipe, home)
    blobs.append(blobs_frame(100, seed=1), lineage={})
    child = train(recipe.with_values(model={"from": "blobs@1"}, train={"epochs": 1, "learning_rate": 1e-9}), home)
    assert child.entry.ref == "blobs@2"
    assert child.model.task.state() == parent.model.task.state()
    assert child.model.manifest.lineage["parent"] == "blobs@1"
    before, after = state_of(parent.model.network), state_of(child.model.network)
    assert all(np.allclose(before[name], after[name], atol=1e-4) for name in before if "running" not in name)


def test_a_class_that_the_parent_does_not_know_is_refused(home, blobs, recipe):
    train(recipe, home)
    frame = blobs_frame(60, seed=1)
    frame.loc[:30, "label"] = "maybe"
    blobs.append(frame, lineage={})
    with pytest.raises(
        InvalidInput, match=r"\d+ training rows .* a label that blobs@1 does not know.*train without `from`"
    ):
        train(recipe.with_values(model={"from": "blobs@1"}), home)


def test_another_network_than_the_parents_is_refused(home, blobs, recipe):
    train(recipe, home)
    with pytest.raises(InvalidInput, match="blobs@1 has another network"):
        train(recipe.with_values(model={"kind": "linear", "from": "blobs@1"}), home)
    with pytest.raises(NotFound):
        train(recipe.with_values(model={"from": "blobs@7"}), home)


# Bad input


@pytest.mark.parametrize(
    ("part", "fields", "sentence"),
    [
        ("data", {"target": "lable"}, "no such target column: received lable. Did you mean 'label'?"),
        ("data", {"inputs": ["x9"]}, "no such input column: received x9"),
        ("data", {"dataset": "blob"}, "lep data import blob PATH"),
        ("data", {"dataset": "blobs@9"}, "9"),
        ("model", {"kind": "mpl"}, "Did you mean 'mlp'?"),
        ("model", {"kind": "cnn"}, "task tabular-classification cannot train this kind of network"),
        ("model", {"dropuot": 0.1}, "Did you mean 'dropout'?"),
        ("train", {"early_stop": {"on": "validation.acuracy"}}, "`train.early_stop.on` is not measured"),
        ("train", {"augment": True}, "`train.augment`: task tabular-classification has no way to vary its rows"),
        ("train", {"time_budget": 0.01}, "the time budget was used up before the first step: received 0.01 s"),
        ("train", {"early_stop": {"on": "test.accuracy"}}, "expected validation.<metric>"),
    ],
)
def test_bad_recipes_are_one_sentence(home, recipe, part, fields, sentence):
    with pytest.raises((InvalidInput, NotFound)) as caught:
        train(recipe.with_values(**{part: fields}), home)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_task_names_the_nearest(home, blobs):
    with pytest.raises(InvalidInput, match="Did you mean 'tabular-classification'"):
        train(parse_recipe(BLOBS.replace("tabular-classification", "tabular-clasification")), home)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f.assign(label="yes"), "only one class"),
        (lambda f: f.assign(label=f.label.where(f.index != 7, "once")), "received 'once'"),
        (
            lambda f: f.assign(label=f.label.where(~f.index.isin([3, 9]), None)),
            "missing in 2 of 300 rows, the first: 3, 9",
        ),
    ],
    ids=["one class", "a label seen once", "labels missing"],
)
def test_bad_labels_are_one_sentence(home, spoil, sentence):
    import_data("blobs", spoil(blobs_frame()), home=home)
    with pytest.raises(InvalidInput) as caught:
        train(parse_recipe(BLOBS), home)
    assert sentence in str(caught.value)


def test_missing_numbers_to_predict_are_counted(home):
    frame = blobs_frame().drop(columns="label").assign(y=1.5)
    frame["y"] += frame.x0
    frame.loc[[2, 4, 6], "y"] = np.nan
    import_data("numbers", frame, home=home)
    with pytest.raises(InvalidInput, match=r"target 'y' is missing in 3 of 300 rows, the first: 2, 4, 6"):
        train(parse_recipe("task: tabular-regression\ndata: {dataset: numbers, target: y}"), home)


# Ends


def test_a_diverged_run_says_so_and_publishes_nothing(home, recipe):
    with pytest.raises(Diverged, match=r"the loss is not a number at step \d+; nothing was published\. Lower"):
        train(
            recipe.with_values(train={"optimizer": "sgd", "learning_rate": 1e30, "schedule": "constant", "warmup": 0}),
            home,
        )
    run = json.loads((home.runs / "blobs" / "run.json").read_text())
    assert run["status"] == "failed"
    assert not home.models.exists() or not list(home.models.glob("blobs/1"))


def test_a_run_that_diverges_late_keeps_its_best_weights(home, recipe, monkeypatch):
    """The loss is lost in the third epoch: the weights of the evaluation before it are published."""
    from leptonai.tasks.classification import Classification

    loss, calls = Classification.loss, []

    def lost_at_20(self, raw, target):
        calls.append(1)
        return loss(self, raw, target) * (float("nan") if raw.requires_grad and len(calls) > 20 else 1.0)

    monkeypatch.setattr(Classification, "loss", lost_at_20)
    result = train(recipe.with_values(train={"epochs": 50}), home)
    assert "the loss is not a number at step" in result.stop_reason
    assert result.metrics["test"]["accuracy"] > 0.7


@pytest.mark.parametrize("kind", ["mlp", "lightgbm"])
def test_the_time_budget_is_kept(home, blobs, kind):
    learn(parse_recipe(BLOBS).with_values(model={"kind": kind}, train={"epochs": 1}), home).run.finish()  # imports
    began = time.monotonic()
    settings = (
        {"epochs": 100_000, "time_budget": 4, "early_stop": {"patience": 100_000}}
        if kind == "mlp"
        else {"time_budget": 4}
    )
    options = {} if kind == "mlp" else {"rounds": 100_000}
    result = train(parse_recipe(BLOBS).with_values(model={"kind": kind, **options}, train=settings), home)
    assert result.seconds < 4 * 1.05
    assert time.monotonic() - began < 4.5
    if kind == "mlp":
        assert "seconds is used" in result.stop_reason
        lines = map(json.loads, (result.run.folder / "metrics.jsonl").read_text().splitlines())
        rates = [line["learning_rate"] for line in lines if "validation.loss" in line]
        assert rates[-1] < 0.1 * max(rates)  # the schedule ends when the time does
    assert result.metrics["test"]["accuracy"] > 0.8


PROGRAM = """
import sys
from leptonai.train.recipe import parse_recipe
from leptonai.train.trainer import train
train(parse_recipe(open(sys.argv[1]).read()))
"""


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_training_ends_with_the_same_weights(home, blobs, tmp_path, kills):
    """SIGKILL between and within checkpoints, best weights and early stopping included."""
    settings = {"epochs": 40, "ema": 0.95, "accumulate": 2, "checkpoint_every": 0.02, "early_stop": {"patience": 30}}
    recipe = parse_recipe(BLOBS).with_values(model={"kind": "mlp", "dropout": 0.3}, train=settings)
    whole = train(recipe.with_values(publish={"name": "whole"}), home)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.yaml")]
    checkpoints = home.runs / "blobs" / "checkpoints"
    for kill in range(kills):
        process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
        before = newest(checkpoints)
        deadline = time.monotonic() + 120
        while newest(checkpoints) < before + 15 + 3 * kill and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed_at = newest(checkpoints)
    assert 0 < killed_at < whole.run.step
    subprocess.run(command, env=os.environ, check=True, stderr=subprocess.DEVNULL)
    assert json.loads((home.runs / "blobs" / "run.json").read_text())["status"] == "finished"
    assert equal(load("blobs", home), load("whole", home))


def test_an_interrupted_publication_publishes_once(home, recipe, monkeypatch):
    """Killed after training, before or after the model was pushed: the same command ends with one version."""
    import leptonai.train.trainer as trainer

    def killed(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, home)
    run = json.loads((home.runs / "blobs" / "run.json").read_text())
    assert run["trained"] and run["status"] == "running"
    (home.runs / "blobs" / "run.json").write_text(json.dumps({**run, "pid": 1}))  # another process, long gone
    again = train(recipe, home)
    assert (again.run.id, again.entry.ref) == ("blobs", "blobs@1")


def newest(checkpoints) -> int:
    folders = checkpoints.glob("step-*") if checkpoints.is_dir() else ()
    return max((int(f.name.split("-")[1]) for f in folders if f.name.split("-")[1].isdigit()), default=0)


def equal(a, b) -> bool:
    first, second = state_of(a.network), state_of(b.network)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
