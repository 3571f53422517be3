# ruff: noqa: F811  (fixtures that come from another folder)
"""`lep serve` and `lep feedback` as a person types them: real processes, one sentence for each mistake."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from photon.conftest import ROW, call, home, zoo  # noqa: F401


def lep(home, *arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "leptonai.cli.main", *arguments],
        env={**os.environ, "LEPTON_HOME": str(home.root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_serve_feedback_and_a_new_dataset_version(home):
    import pyarrow as pa

    from leptonai.data.importing import import_data

    import_data(
        "digits",
        pa.Table.from_pylist([{**ROW, "digit": i % 10} for i in range(12)]),
        types={"digit": "integer"},
        home=home,
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli.main", "serve", "digits@1", "--name", "desk", "--port", "0"],
        env={**os.environ, "LEPTON_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        first = server.stdout.readline()
        assert first.startswith("digits@1 is served as 'desk' on http://127.0.0.1:")
        url = first.split()[-1]
        listed = json.loads(lep(home, "serve", "--ls", "--json").stdout)
        assert [(one["name"], one["url"], one["pid"]) for one in listed] == [("desk", url, server.pid)]

        request = call(url, "POST", "/predict", ROW)[1]["request_id"]
        added = lep(home, "feedback", "add", url, request, "7")
        assert (added.returncode, added.stdout) == (0, f"Stored for request {request}, row 0.\n")
        wrong = lep(home, "feedback", "add", url, request, "eleven")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.startswith("Error: this is no label of 'digit': received eleven")

        shown = json.loads(lep(home, "feedback", "ls", "desk", "--json").stdout)
        assert (shown["feedback"], shown["newest"][0]["really"]) == ({"label": 1}, 7)
        assert "digits@1" in lep(home, "feedback", "ls", "desk").stdout

        done = lep(home, "feedback", "to-data", "desk", "digits")
        assert done.stdout == "digits@2: 1 rows with what they really were, from 'desk'.\n"
        assert "Nothing new" in lep(home, "feedback", "to-data", "desk", "digits").stdout

        assert lep(home, "serve", "--stop", "desk").stdout == "Stopped desk (digits@1).\n"
        assert server.wait(30) == 0
    finally:
        server.kill()


def test_ctrl_c_ends_quietly(home):
    server = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli.main", "serve", "digits", "--port", "0"],
        env={**os.environ, "LEPTON_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = server.stdout.readline().split()[-1]
    with urllib.request.urlopen(f"{url}/healthz") as answer:
        assert json.load(answer) == {"status": "ok", "service": "digits", "model": "digits@2"}
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["serve"], 2, "which model?"),
        (["serve", "digitz"], 3, "Did you mean 'digits'"),
        (["serve", "digits@7"], 3, "has no version 7"),
        (["serve", "digits", "--host", "0.0.0.0"], 5, "needs a token"),
        (["serve", "digits", "--host", "no.such.host.invalid"], 5, "needs a token"),
        (["serve", "digits", "--token", "short", "--port", "0"], 2, "cannot be a token"),
        (["serve", "digits", "--name", "../up", "--port", "0"], 2, "cannot be the name of a service"),
        (["serve", "digits", "--port", "70000"], 2, "70000"),
        (["serve", "no/such/folder", "--port", "0"], 3, ""),
        (["serve", "--stop", "nobody"], 3, "no service named 'nobody' runs here"),
        (["feedback", "ls", "nobody"], 3, "no service 'nobody'"),
        (["feedback", "to-data", "nobody", "digits"], 3, "no service 'nobody'"),
        (["feedback", "add", "http://127.0.0.1:9", "0" * 32, "3"], 8, "no service answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(home, arguments, status, words):
    done = lep(home, *arguments)

    assert (done.returncode, words in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
