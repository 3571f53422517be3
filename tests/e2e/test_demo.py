"""The main job as a user runs it: `lep demo`, a real process with a home of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LEP = Path(sys.executable).parent / "lep"


def lep(home: Path, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LEPTON_HOME": str(home)}
    return subprocess.run([LEP, *arguments], env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def digits(home):
    return lep(home, "demo", "--exit", "--port", "0")


def test_the_loop_closes(digits):
    assert digits.returncode == 0, digits.stderr[-2000:]
    assert "200 of 200 answered" in digits.stdout
    assert re.search(r"160 answers reviewed: \d+ confirmed, \d+ corrected", digits.stdout)
    assert "digits@3: 1,757 rows, 160 of them from feedback" in digits.stdout
    # Either the gate passed, and no request failed in the swap; or it said no, and the old version stayed.
    assert re.search(r"digits@1, 52|requests meanwhile: .* 0 failed|stays in production", digits.stdout)
    if "The gate passes" in digits.stdout:
        assert re.search(
            r"requests meanwhile: \d+ by digits@1, \d+ by digits@2, 0 failed; endpoint and cloud", digits.stdout
        )
    service = json.loads(lep(Path(digits.args[0]), "serve", "--ls", "--json").stdout or "[]")
    assert service == []


def test_what_it_made_can_be_looked_at(digits, home):
    data = json.loads(lep(home, "data", "ls", "--json").stdout)
    assert [(one["name"], one["version"]) for one in data] == [("digits", 3)]
    models = json.loads(lep(home, "model", "ls", "--json").stdout)
    assert {one["version"] for one in models} == {1, 2}
    report = json.loads(lep(home, "evaluate", "digits@2", "digits", "--json").stdout)
    assert report["metrics"]["accuracy"]["value"] > 0.9
    assert (
        report["metrics"]["accuracy"]["low"]
        <= report["metrics"]["accuracy"]["value"]
        <= report["metrics"]["accuracy"]["high"]
    )


def test_it_can_be_run_again_on_a_table(home, tmp_path):
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    path = tmp_path / "cancer.csv"
    import pandas as pd

    pd.concat([frame, frame.sample(300, random_state=0)]).to_csv(path, index=False)
    for _ in range(2):
        done = lep(home, "demo", "--exit", "--port", "0", "--data", str(path), "--target", "target")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "test accuracy" in done.stdout


def test_a_dataset_that_no_demo_made_is_left_alone(home, tmp_path):
    (tmp_path / "mine.csv").write_text("a,label\n1,x\n2,y\n")
    assert lep(home, "data", "import", "mine", str(tmp_path / "mine.csv")).returncode == 0
    refused = lep(home, "demo", "--exit", "--name", "mine")
    assert refused.returncode == 4
    assert "no demo made" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert lep(home, "data", "show", "mine").returncode == 0
