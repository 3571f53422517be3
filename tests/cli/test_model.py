"""`lep model` as it is typed: real processes, their output and exit codes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from leptonai.zoo.files import write_model
from leptonai.zoo.manifest import Manifest


@pytest.fixture
def lep(tmp_path):
    def run(*arguments, code=0):
        environment = {**os.environ, "LEPTON_HOME": str(tmp_path / "home"), "COLUMNS": "120"}
        command = [sys.executable, "-m", "leptonai.cli.main", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def folder(tmp_path):
    network = {"kind": "linear", "config": {}}
    manifest = Manifest(task="tabular-regression", network=network, metrics={"test": {"rmse": 2.5, "rows": 80}})
    write_model(tmp_path / "model", manifest, {"w": np.ones(3)})
    return tmp_path / "model"


def test_push_list_show_tag_pull_remove(lep, folder, tmp_path):
    assert "no model yet" in lep("model", "ls")
    assert "Published prices@1 (production)" in lep("model", "push", folder, "prices", "--tag", "production")
    (listed,) = json.loads(lep("model", "ls", "--json"))
    assert (listed["ref"], listed["tags"], listed["metrics"]) == (
        "prices@1",
        ["production"],
        {"test": {"rmse": 2.5, "rows": 80}},
    )
    table = lep("model", "ls")
    assert "prices@1" in table
    assert "rmse 2.5000" in table
    shown = lep("model", "show", "prices@production")
    assert "80 rows that training never saw" in shown
    assert "Tags: production" in shown
    assert json.loads(lep("model", "show", "prices", "--json"))["network"]["kind"] == "linear"
    assert "prices@best is now prices@1" in lep("model", "tag", "prices@1", "best")
    lep("model", "pull", "prices", tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "Move the tag" in lep("model", "rm", "prices@1", code=4)
    assert "Removed prices@1" in lep("model", "rm", "prices@1", "--force")
    assert json.loads(lep("model", "ls", "--json")) == []


def test_a_pickle_is_refused_in_one_sentence(lep, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")

    said = lep("model", "push", tmp_path / "pytorch_model.bin", "evil", code=5)

    assert said.count("\n") == 1
    assert "can run code when opened" in said
    assert "safetensors.torch.save_file" in said


def test_a_cut_file_is_named(lep, folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(50)

    assert "model.safetensors is not what was written" in lep("model", "push", folder, "cut", code=6)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show", "nothing"), 3, "no model 'nothing'"),
        (("push", "absent", "x"), 3, "no model folder"),
        (("push", "model", "../x"), 2, "cannot be the name"),
        (("rm", "nothing@1"), 3, "no model"),
        (("ls", "nothing"), 3, "no model"),
        (("pull", "a@b@c", "x"), 2, "does not name a model"),
    ],
)
def test_bad_input_is_one_sentence(lep, folder, arguments, code, says):
    said = lep("model", *arguments, code=code)

    assert says in said
    assert said.count("\n") == 1
