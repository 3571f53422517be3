"""`lep run`: any Python script, as it is. Real processes: output, exit status, arguments, signals, the run's record."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from leptonai.base.home import Home
from leptonai.data.importing import import_data

LEP = [sys.executable, "-m", "leptonai.cli.main"]


class Place:
    """A folder for scripts and a home of its own."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"
        self.environment = {**os.environ, "LEPTON_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.environment.pop("KERAS_BACKEND", None)

    def script(self, text: str, name: str = "job.py") -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def lep(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LEP, "run", *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*LEP, "run", *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> Path:
        return self.home / "workspaces" / "default" / "runs" / name

    def record(self, name: str) -> dict:
        return json.loads((self.run(name) / "run.json").read_text())


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_plain_script_keeps_its_output_arguments_and_time(place):
    script = place.script("import sys\nprint('out', sys.argv[1:], __name__)\nprint('err', file=sys.stderr)\n")

    done = place.lep(script, "--epochs", "3", "a b", "--help")

    assert done.returncode == 0
    assert done.stdout == "out ['--epochs', '3', 'a b', '--help'] __main__\n"
    assert done.stderr.startswith("err\n") and "Run job finished in" in done.stderr
    record = place.record("job")
    assert record["status"] == "finished" and record["exit_status"] == 0 and record["elapsed_s"] > 0
    assert record["script"]["arguments"] == ["--epochs", "3", "a b", "--help"]
    assert sorted((place.run("job") / "log.txt").read_text().splitlines()) == sorted([done.stdout.strip(), "err"])
    assert len(record["lineage"]["code"]["sha256"]) == 64


def test_the_script_is_at_home_in_its_process(place):
    place.script("value = 7\n", "neighbour.py")
    script = place.script(
        "import os, pickle, sys, __main__\nfrom neighbour import value\nclass Thing: pass\n"
        "assert pickle.loads(pickle.dumps(Thing())).__class__ is __main__.Thing\n"
        "assert __file__.endswith('job.py') and sys.argv == [__file__]\n"
        "assert os.environ['KERAS_BACKEND'] == 'torch' and os.environ['LEPTON_RUN'] == 'job'\n"
        "assert not {'torch', 'keras', 'numpy'} & set(sys.modules)\nprint(value)\n"
    )
    done = place.lep(script)
    assert done.stdout == "7\n", done.stderr


def test_a_script_that_fails_fails_with_its_own_traceback(place):
    done = place.lep(place.script("def f():\n    return 1 / 0\nf()\n"))

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr and "job.py" in done.stderr and "script.py" not in done.stderr
    assert place.record("job")["status"] == "failed"
    assert "ZeroDivisionError" in (place.run("job") / "log.txt").read_text()


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("raise SystemExit(3)", 3, "failed"),
        ("raise SystemExit('no data')", 1, "failed"),
        ("import os; os._exit(9)", 9, "failed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "failed"),
        ("x = (", 1, "failed"),
    ],
)
def test_every_end_is_passed_through_and_written_down(place, text, status, word):
    done = place.lep(place.script(text))
    assert done.returncode == status
    assert (place.record("job")["status"], place.record("job")["exit_status"]) == (word, status)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_script_once(place, number, status):
    script = place.script(
        "import signal, sys, time\nseen = []\n"
        "def note(number, frame):\n    seen.append(number)\n"
        "signal.signal(signal.SIGTERM, note); signal.signal(signal.SIGINT, note)\nprint('ready')\n"
        "while not seen: time.sleep(0.01)\ntime.sleep(0.3)\nprint('seen', len(seen))\nsys.exit(128 + seen[0])\n"
    )
    process = place.start(script)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert out == "seen 1\n" and process.returncode == status
    assert place.record("job")["status"] == "stopped"


def test_output_is_passed_on_as_it_comes(place):
    process = place.start(place.script("import time\nprint('now')\ntime.sleep(60)\n"))
    assert process.stdout.readline() == "now\n"  # long before the script ends
    wait_for(lambda: (place.run("job") / "log.txt").read_text() == "now\n")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_json_is_the_record_and_nothing_else(place):
    done = place.lep("--name", "first-try", "--json", place.script("print('hello')"))
    record = json.loads(done.stdout)
    assert record["id"] == "first-try" and record["status"] == "finished" and "hello" in done.stderr


def test_each_run_has_a_folder_of_its_own(place):
    script = place.script("print('x')", "my script_v2.py")
    place.lep(script)
    place.lep(script)
    assert place.record("my-script-v2")["id"] == "my-script-v2"
    assert place.record("my-script-v2-2")["id"] == "my-script-v2-2"


LOOP = """
import os, sys, time, torch
import leptonai as la
run = la.Run("anything", seed=3, checkpoint_every="1 steps")
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batches = [torch.ones(4, 2)] * 5
model, optimizer, batches = run.prepare(model, optimizer, batches)
for step, batch in run.steps(batches, until="6 epochs"):
    loss = model(batch).square().mean()
    run.backward(loss); optimizer.step(); optimizer.zero_grad(); run.log(loss=loss)
    if step == 7 and not os.path.exists("stopped"):
        slow = open("stopped", "w")
        print("waiting")
    if "slow" in globals():
        time.sleep(0.5)
run.publish(model, "line")
"""


def test_la_run_joins_the_run_and_a_stopped_one_continues(place):
    script = place.script(LOOP)
    process = place.start(script)
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert place.record("job")["status"] == "stopped"

    done = place.lep(script)

    assert done.returncode == 0, done.stderr
    assert "Continuing run job" in done.stderr
    record = place.record("job")
    assert record["status"] == "finished" and record["step"] == 30 and record["model"] == "line@1"
    steps = [json.loads(line)["step"] for line in (place.run("job") / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 30
    assert not place.run("anything").exists() and not place.run("job-2").exists()
    assert list(place.run("job").glob("events.out.tfevents.*"))


def test_what_cannot_be_run_is_a_sentence(place):
    assert place.lep("absent.py").stderr.startswith("Error: there is no such script: received absent.py")
    shell = place.script("echo", "job.sh")
    assert "expected a .py file" in place.lep(shell).stderr
    job = place.script("print(1)")
    assert "--publish" in place.lep("--publsh", "x", job).stderr
    assert "cannot be the name of a run" in place.lep("--name", "../x", job).stderr
    noted = place.lep(job, "--dataset", "x")
    assert noted.returncode == 0 and "--dataset was passed to job.py" in noted.stderr


needs_absence = pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")

TUTORIAL = """
import tensorflow as tf
from tensorflow.keras import datasets, layers, models
from tensorflow.keras.utils import to_categorical

tf.random.set_seed(0)
(x, y), (x_test, y_test) = datasets.mnist.load_data()
x, x_test = x.reshape(-1, 28, 28, 1).astype("float32") / 255, x_test.reshape(-1, 28, 28, 1).astype("float32") / 255
model = tf.keras.Sequential([layers.Flatten(input_shape=(28, 28, 1)), layers.Dense(10, activation="softmax")])
model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
model.fit(x, to_categorical(y, 10), epochs=1, batch_size=16, verbose=0)
model.evaluate(x_test, to_categorical(y_test, 10), verbose=0)
print(len(x), len(x_test), x.dtype, y.dtype)
"""


@needs_absence
def test_a_tutorial_for_tensorflow_runs_on_keras_alone_and_on_the_stored_mnist(place):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 28, 28), dtype=np.uint8)
    import_data("mnist", {"image": pixels, "label": np.arange(70) % 10}, home=Home(place.home))

    done = place.lep(place.script(TUTORIAL))

    assert done.returncode == 0, done.stderr
    assert done.stdout == "60 10 float32 uint8\n"
    assert "TensorFlow is not installed" in done.stderr and "keras.datasets.mnist is mnist@1 here" in done.stderr
    record = place.record("job")
    assert record["model"] == "job@1" and "test.accuracy" in record["metrics"]


@needs_absence
def test_what_needs_tensorflow_itself_is_said(place):
    done = place.lep(place.script("import tensorflow as tf\ntf.data.Dataset\n"))
    assert done.returncode == 1 and "TensorFlow is not installed, so there is no tf.data" in done.stderr
    done = place.lep(place.script("import tensorflow.lite\n"))
    assert done.returncode == 1 and "No module named 'tensorflow'" in done.stderr
