"""A study: what may be searched, what is published, that it goes on where it was, alone and by several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from leptonai.base.errors import Conflict, InvalidInput
from leptonai.base.yaml import parse_yaml
from leptonai.tasks.model import load
from leptonai.train.space import Choices, Range, find_spaces
from leptonai.train.tune import tune

RECIPE = """recipe: 1
task: tabular-classification
data: {dataset: blobs}
model: {kind: mlp, hidden: {choices: [[8], [16, 8]]}, dropout: {search: [0.0, 0.5], step: 0.1}}
train: {epochs: 3, batch: {search: [16, 64]}, learning_rate: {search: [1e-5, 3e-2], log: true}}
publish: {name: tuned, tags: [best]}
"""


def test_spaces_stand_in_the_place_of_values():
    found = find_spaces(parse_yaml(RECIPE, "r.yaml"))
    assert found == {
        ("model", "hidden"): Choices(([8], [16, 8])),
        ("model", "dropout"): Range(0.0, 0.5, step=0.1),
        ("train", "batch"): Range(16, 64),
        ("train", "learning_rate"): Range(1e-5, 3e-2, log=True),
    }


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("{search: [1, 2, 3]}", "two numbers"),
        ("{search: [3, 1]}", "two numbers"),
        ("{search: [0, 1], log: true}", "only above 0"),
        ("{search: [0, 1], steps: 2}", "Did you mean 'step'"),
        ("{choices: [1]}", "at least two"),
        ("{choices: [1, 2], log: true}", "at least two"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named_with_its_line(space, sentence):
    text = f"recipe: 1\ntask: tabular-classification\ntrain:\n  batch: {space}\n"
    with pytest.raises(InvalidInput, match=rf"`train\.batch` in line 4.*{sentence}"):
        find_spaces(parse_yaml(text, "r.yaml"))


def test_mistakes_are_said_before_anything_is_trained(home, blobs):
    with pytest.raises(InvalidInput, match="nothing to search"):
        tune("recipe: 1\ntask: tabular-classification\ndata: {dataset: blobs}\n", "r.yaml", home=home)
    with pytest.raises(InvalidInput, match="learning_rat"):
        tune(RECIPE.replace("learning_rate", "learning_rat"), "r.yaml", home=home)
    assert not (home.folder / "tunes").exists()


def test_the_best_trial_is_published_and_the_study_goes_on(home, blobs):
    found = tune(RECIPE, "r.yaml", trials=4, home=home)
    assert len(found.trials) == 4
    assert found.best.value == max(trial.value for trial in found.trials if trial.state == "complete")
    assert found.entry.ref == "tuned@1"
    kept = load("tuned@best", home)
    assert list(kept.network.config["hidden"]) == found.best.values["model.hidden"]
    again = tune(RECIPE, "r.yaml", trials=6, home=home)
    assert [trial.values for trial in again.trials[:4]] == [trial.values for trial in found.trials]
    assert len(again.trials) == 6
    with pytest.raises(Conflict, match="--name NAME"):
        tune(RECIPE.replace("epochs: 3", "epochs: 4"), "r.yaml", trials=6, home=home)


def test_the_same_seed_tries_the_same_values(home, blobs):
    first, second = (tune(RECIPE, "r.yaml", trials=3, name=name, seed=5, home=home) for name in ("a", "b"))
    assert [t.values for t in first.trials] == [t.values for t in second.trials]
    assert [t.value for t in first.trials] == [t.value for t in second.trials]


def test_a_bad_trial_is_ended_early(home, blobs):
    text = RECIPE.replace("epochs: 3", "epochs: 12").replace("[1e-5, 3e-2]", "[1e-7, 1e-1]")
    found = tune(text, "r.yaml", trials=14, home=home)
    assert {"complete", "pruned"} <= {trial.state for trial in found.trials}


def test_no_time_is_a_sentence(home, blobs):
    with pytest.raises(InvalidInput, match=r"no trial .* has ended well"):
        tune(RECIPE, "r.yaml", trials=3, time_budget_s=0.0, home=home)


def test_killed_workers_lose_nothing_that_had_ended(home, blobs, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("epochs: 3", "epochs: 30"))
    command = [sys.executable, "-m", "leptonai.cli.main", "tune", str(path), "--trials", "8", "--jobs", "2", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    journal, deadline = home.folder / "tunes" / "tuned" / "journal.log", time.monotonic() + 90
    while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count('"seconds"') >= 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended = journal.read_text().count('"seconds"')
    assert ended >= 2
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert sum(trial["state"] in ("complete", "pruned") for trial in found["trials"]) == 8
    assert sum(trial["run"] is not None for trial in found["trials"]) >= 8
    assert found["model"] == "tuned@1"
