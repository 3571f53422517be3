"""The loop meets the cloud, as a user types it: a recipe as a job, its model as an endpoint, feedback back into the data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("lance")

import httpx

from .official import start_cloud, stop_cloud

LEP = Path(sys.executable).parent / "lep"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    cloud = start_cloud(tmp_path_factory.mktemp("cloud"))
    yield cloud
    stop_cloud(cloud)


@pytest.fixture(scope="module")
def lep(cloud):
    def run(*arguments: str, status: int = 0, **more: str) -> str:
        environment = {**os.environ, "LEPTON_HOME": str(cloud.home), "OMP_NUM_THREADS": "1", **more}
        done = subprocess.run([LEP, *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, f"lep {' '.join(arguments)} → {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def model(lep, tmp_path_factory):
    """`points@1`, trained by a job."""
    folder = tmp_path_factory.mktemp("files")
    rows = [f"{x},{y},{'far' if x + y > 9 else 'near'}" for x in range(10) for y in range(10)]
    (folder / "points.csv").write_text("\n".join(["x,y,where", *rows]))
    lep("data", "import", "points", str(folder / "points.csv"))
    lep("data", "split", "points", "--test", "0.2", "--validation", "0.1")
    recipe = "task: tabular-classification\ndata: {dataset: points, target: where}\nmodel: {kind: linear}\n"
    (folder / "recipe.yaml").write_text(recipe)
    said = lep("train", str(folder / "recipe.yaml"), "--on", "default", "-rs", "cpu.small")
    assert "Job train-points-" in said and "Model   points@1" in said  # the job's own words, followed
    return "points@1"


def test_a_recipe_becomes_a_job_whose_model_lands_in_the_workspace(lep, model):
    assert [one["version"] for one in json.loads(lep("model", "ls", "--json"))] == [1]
    (job,) = json.loads(lep("job", "list", "--json"))
    assert job["status"]["state"] == "Completed"
    assert "Model   points@1" in lep("log", "get", "-j", job["metadata"]["id"], "-q", "Model")
    assert "Model" not in lep("log", "get", "-j", job["metadata"]["id"], "--end", "1h")


def test_a_model_becomes_an_endpoint_and_feedback_becomes_data(lep, model):
    made = json.loads(lep("deploy", "points", "--name", "where", "--replicas", "2", "--json"))
    assert made["model"] == "points@1" and made["state"] == "Ready"
    key = {"authorization": f"Bearer {made['tokens'][0]}"}
    assert httpx.post(f"{made['url']}/predict", json={"x": 9, "y": 9}).status_code == 401
    with httpx.Client(headers=key, timeout=60) as client:
        answers = [client.post(f"{made['url']}/predict", json={"x": x, "y": 9}).json() for x in range(8)]
        # Both replicas have the log, so it does not matter which one gets the feedback.
        for answer in answers:
            told = client.post(f"{made['url']}/feedback", json={"request_id": answer["request_id"], "label": "far"})
            assert told.status_code == 200, told.text
    assert lep("feedback", "to-data", "where", "points").startswith("points@3: 8 rows")
    assert "where" in lep("endpoint", "list")
    assert "Ready" in lep("endpoint", "status", "-n", "where", "-d")
    assert "→ 3" in _error(lep, "deploy", "nothing")  # NotFound: no such model
    lep("endpoint", "remove", "-n", "where")


def _error(lep, *arguments):
    try:
        lep(*arguments)
    except AssertionError as error:
        return str(error)
    raise AssertionError(f"lep {' '.join(arguments)} did not fail")


def test_our_own_words_for_the_rest(lep, cloud, tmp_path):
    lep("login", "-c", f"default:{cloud.key}", "-u", cloud.url)
    assert (cloud.home / "logins.json").stat().st_mode & 0o777 == 0o600
    lep("secret", "create", "-n", "S", "-v", "canary-value")
    assert "canary-value" not in lep("secret", "list")
    made = lep("job", "create", "-n", "echo", "--command", "echo got $S", "-s", "S", "-rs", "cpu.small", "-w", "2")
    id = made.split()[1]
    assert lep("job", "log", "-i", id).count("got canary-value") == 2  # it ends with the job
    assert lep("job", "replicas", "-i", id).count(id) >= 2
    lep("job", "remove", "-i", id)
    (tmp_path / "a.txt").write_text("hello")
    lep("storage", "upload", str(tmp_path / "a.txt"), "in/a.txt")
    assert "in/a.txt" in lep("storage", "ls", "in")
    lep("storage", "download", "in/a.txt", str(tmp_path / "b.txt"))
    assert (tmp_path / "b.txt").read_text() == "hello"
    assert "is there already" in _error(lep, "storage", "download", "in/a.txt", str(tmp_path / "b.txt"))
    assert "cpu.small" in lep("node", "resource-shape") and "local" in lep("node", "list")
    lep("pod", "create", "-n", "p1", "--container-command", "sleep 60")
    assert "p1" in lep("pod", "list") and "p1" not in lep("endpoint", "list")
    lep("pod", "remove", "-n", "p1")
    lep("ingress", "create", "-d", "own.example.com")
    (found,) = json.loads(lep("ingress", "list", "--json"))
    lep("ingress", "delete", "-n", found["metadata"]["name"])
    lep("logout", "--purge")
    assert cloud.key not in (cloud.home / "logins.json").read_text()
