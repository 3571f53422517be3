"""SIGKILL at random points, in real processes: the final weights are equal, bit for bit, to those of the unbroken run."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from leptonai.base.home import Home
from leptonai.train.checkpoint import CheckpointStore
from leptonai.train.record import read_run
from leptonai.train.trackers import read_metrics
from leptonai.zoo.files import read_model

# Dropout, batch norm, averaging, accumulation, clipping, fp16 scaling, warm-up, early stopping and augmentation, all at once,
# with a checkpoint after each optimizer step, so that many kills fall into one.
SCRIPT = """
import sys, numpy, torch, leptonai as la
from leptonai.train.loader import Loader
from leptonai.train.optim import make_optimizer, make_schedule

draw = numpy.random.default_rng(0)
x, y = draw.normal(size=(600, 64)), draw.integers(0, 10, 600)
shift = lambda batch, g: {**batch, "x": batch["x"].roll(int(torch.randint(3, (1,), generator=g)), 1)}
run = la.Run("digits", track=("jsonl",), precision="fp16", accumulate=2, clip=1.0, ema=0.99, checkpoint_every="1 step")
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10))
loader = Loader({"x": x.astype("float32"), "y": y}, batch_size=32, transform=shift)
model, optimizer, loader, _ = run.prepare(model, make_optimizer(model, sys.argv[1]), loader, make_schedule("onecycle"))
stop = run.stop_if("epoch_loss", patience=2)
for step, batch in run.steps(loader, until="2 epochs"):
    loss = torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])
    run.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    run.log(loss=loss)
    run.state["sum"] = run.state.get("sum", 0.0) + loss.item()
    if run.epoch_ends:
        run.log(epoch_loss=run.state.pop("sum"))
run.publish(model, "digits", metrics=run.metrics)
"""
STEPS, DEADLINE_S = 38, 180


def start(tmp_path, where, optimizer):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "LEPTON_HOME": str(tmp_path / where), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, script, optimizer], env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    return said


def newest_step(home):
    folder = home.runs / "digits" / "checkpoints"
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0) if folder.is_dir() else 0


def kill_after(process, home, step, delay_s):
    """Kill the process once it has saved `step`, and a moment later; False if it came to its end before."""
    deadline = time.monotonic() + DEADLINE_S
    while newest_step(home) < step and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    until = time.monotonic() + delay_s
    while time.monotonic() < until and process.poll() is None:
        pass
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check_killed_equals_unbroken(tmp_path, kills, optimizer="adamw", seed=0):
    """Returns how many kills hit a process that was training; the others came before its first step or after its last."""
    draw = random.Random(seed)
    finish(start(tmp_path, "whole", optimizer))
    home, killed = Home(tmp_path / "cut"), 0
    targets = sorted(draw.randrange(0, STEPS - 4) for _ in range(kills))
    for target in targets:
        # Each kill is at least a step beyond the one before, and up to some steps later: in a save, a step, or between.
        step = max(target, min(newest_step(home) + 1, STEPS - 2))
        killed += kill_after(start(tmp_path, "cut", optimizer), home, step, draw.random() * 0.03)
    assert killed >= kills - 1
    said = finish(start(tmp_path, "cut", optimizer))
    assert "continuing after step" in said and "damaged" not in said
    whole = Home(tmp_path / "whole")
    models = [read_model(each.models / "digits" / "1") for each in (whole, home)]
    assert all((models[0].tensors[name] == value).all() for name, value in models[1].tensors.items())
    checkpoints = [CheckpointStore(each.runs / "digits" / "checkpoints").newest() for each in (whole, home)]
    assert checkpoints[0].step == checkpoints[1].step == STEPS
    for part in ("model", "optimizer", "ema", "scaler", "random", "stops"):
        assert repr(checkpoints[0].parts[part]) == repr(checkpoints[1].parts[part]), part
    lines = [
        [{k: v for k, v in line.items() if k != "elapsed_s"} for line in read_metrics(each.runs / "digits")]
        for each in (whole, home)
    ]
    assert lines[0] == lines[1]
    assert read_run(home.runs / "digits")["status"] == "finished"
    assert not list((home.runs / "digits" / "checkpoints").glob(".step-*"))
    return killed


def test_three_kills(tmp_path):
    check_killed_equals_unbroken(tmp_path, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_twenty_kills(tmp_path, optimizer):
    check_killed_equals_unbroken(tmp_path, kills=20, optimizer=optimizer, seed=1)


def test_two_processes_never_train_one_run(tmp_path):
    first = start(tmp_path, "cut", "adamw")
    home = Home(tmp_path / "cut")
    deadline = time.monotonic() + DEADLINE_S
    while newest_step(home) < 1:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the run, and will not end before the second has looked
    second = start(tmp_path, "cut", "adamw")
    _, said = second.communicate(timeout=DEADLINE_S)
    first.kill()
    first.communicate()
    assert second.returncode != 0 and "run digits is being trained by another process" in said


def test_a_script_that_fails_is_recorded_and_can_go_on(tmp_path):
    script = "import leptonai as la\nrun = la.Run('exp', track=())\nfor step, _ in run.steps([0] * 5):\n    if step == 3: {}\n"
    environment = {**os.environ, "LEPTON_HOME": str(tmp_path)}
    statuses = []
    for end in ("raise ValueError", "exit(4)", "pass"):
        code = subprocess.run(
            [sys.executable, "-c", script.format(end)], env=environment, capture_output=True
        ).returncode
        statuses.append((code, read_run(Home(tmp_path).runs / "exp")["status"]))
    assert statuses == [(1, "failed"), (4, "stopped"), (0, "finished")]
