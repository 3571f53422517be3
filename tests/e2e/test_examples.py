"""Every program in examples/, run as its reader would run it, with small settings. What it learned must be in the zoo and be good."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import leptonai as la
from leptonai.base.errors import Refused
from leptonai.base.home import Home
from leptonai.train.trackers import read_metrics
from leptonai.zoo.store import ModelStore

EXAMPLES = Path(__file__).parents[2] / "examples"
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
LEP = ("-m", "leptonai.cli.main")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def python(home: Home, *arguments: object) -> str:
    environment = {**os.environ, "LEPTON_HOME": str(home.root), "OMP_NUM_THREADS": "2"}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=home.root.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy_in(output: str) -> float:
    line = next(line for line in output.splitlines() if line.startswith("test accuracy: "))
    return float(line.split(": ")[1])


def record(home: Home, name: str) -> dict:
    return json.loads((home.runs / name / "run.json").read_text())


def test_linear_regression(home):
    output = python(home, EXAMPLES / "linear_regression.py")
    assert "mean squared error: 5593.19" in output
    model = la.load("rents", home=home)
    assert model.predict({"feature": 100.0})["value"] == pytest.approx(180 + 11.5 * 100, abs=60)


def test_fit_table(home):
    output = python(home, EXAMPLES / "fit_table.py", "20s")
    assert "'label': 'class_0'" in output and "task: tabular-classification" in output
    (name,) = ModelStore(home).names()
    assert ModelStore(home).resolve(name).manifest.metrics["test"]["accuracy"] > 0.85


def test_own_loop_is_tracked_and_its_weights_are_kept(home):
    assert accuracy_in(python(home, EXAMPLES / "own_loop.py")) > 0.87
    lines = read_metrics(home.runs / "own-loop")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.2 * losses[0] and lines[-1]["step"] == 15 * 47
    entry = ModelStore(home).resolve("own-loop")
    assert entry.manifest.lineage["run"] == "own-loop" and entry.manifest.network["kind"] == "external"


def test_an_lstm_in_pytorch_run_through_lepton(home):
    output = python(home, *LEP, "run", EXAMPLES / "lstm_text.py", "--epochs", "4")

    assert accuracy_in(output) > 0.9
    run = record(home, "lstm-text")
    assert run["status"] == "finished" and run["script"]["arguments"] == ["--epochs", "4"]
    assert run["metrics"]["test.accuracy"] > 0.9 and run["model"] == "lstm-text@1"
    epochs = [line["epoch"] for line in read_metrics(home.runs / "lstm-text")]
    assert epochs == sorted(epochs) and len(epochs) > 3
    assert list((home.runs / "lstm-text").glob("events.out.tfevents.*"))
    with pytest.raises(Refused, match="Lepton cannot build by itself"):
        la.load("lstm-text", home=home)


@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
def test_a_keras_cnn_run_through_lepton_is_tracked_published_and_measured(home):
    output = python(home, *LEP, "run", "--publish", "digits-keras", EXAMPLES / "keras_mnist.py", "--epochs", "6")

    accuracy = accuracy_in(output)
    assert accuracy > 0.85
    run = record(home, "keras-mnist")
    assert run["status"] == "finished" and run["model"] == "digits-keras@1"
    lines = read_metrics(home.runs / "keras-mnist")
    assert [line["epoch"] for line in lines if "validation.accuracy" in line] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["test.accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert list((home.runs / "keras-mnist").glob("events.out.tfevents.*"))
    # The published model measures, through the way that a server goes, what the script measured with x / 16.
    entry = ModelStore(home).resolve("digits-keras")
    assert entry.manifest.network["config"]["scale"] == pytest.approx(1 / 16)
    assert entry.manifest.metrics["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    report = json.loads(python(home, *LEP, "evaluate", "digits-keras", "digits", "--json"))
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
@pytest.mark.skipif(not MNIST.is_dir(), reason="../shared/data/mnist is not there")
def test_the_keras_cnn_learns_mnist(home):
    python(home, *LEP, "data", "import", "mnist", MNIST)
    output = python(home, *LEP, "run", EXAMPLES / "keras_mnist.py", "--epochs", "2", "--rows", "12000")
    assert accuracy_in(output) > 0.95
    model = la.load("keras-mnist", home=home)
    assert model.manifest.network["config"]["scale"] == pytest.approx(1 / 255)
    image = la.open_dataset("mnist", home).columns(["image"])["image"][0]
    assert model.predict({"image": np.asarray(image).tolist()})["score"] > 0
