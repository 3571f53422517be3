"""Metrics are written once: a cut line is repaired, and steps after the checkpoint that is continued are forgotten."""

import importlib.util
import json
import struct

import pytest

from leptonai.base.errors import InvalidInput, Missing
from leptonai.base.home import Home
from leptonai.train.run import Run
from leptonai.train.trackers import JsonLines, TensorBoard, WeightsAndBiases, check_trackers, read_metrics


def test_lines_are_there_at_once_and_nan_is_null(tmp_path):
    lines = JsonLines(tmp_path, 0)
    lines.write(1, {"loss": 0.5})
    lines.write(2, {"loss": float("nan")})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_a_cut_line_and_later_steps_are_dropped_when_a_run_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 10, "loss": 1}\n{"step": 20, "loss": 2}\n{"step": 30, "loss": 3}\n{"step": 4'
    )
    lines = JsonLines(tmp_path, 20)
    lines.write(30, {"loss": 4})
    lines.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 1), (20, 2), (30, 4)]


@pytest.mark.parametrize("rest", [b'{"step": 11, "lo', b"\x00\x00\x00", b'{"loss": 1}\n', b"[]\n"])
def test_whatever_a_crash_left_at_the_end_is_cut_off(tmp_path, rest):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10, "loss": 1}\n' + rest)
    JsonLines(tmp_path, 100).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 10, "loss": 1}\n'


def events(folder):
    """(step, tag, value) of every scalar in the event files, and the steps from which earlier ones are purged."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars, purges = [], []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                purges.append(event.step)
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return scalars, purges


def test_tensorboard_gets_the_values_and_purges_what_was_undone(tmp_path):
    first = TensorBoard(tmp_path, 0)
    first.write(50, {"validation.loss": 0.5})
    first.close()
    second = TensorBoard(tmp_path, 20)
    second.write(50, {"validation.loss": 0.25})
    second.close()
    assert events(tmp_path) == ([(50, "validation/loss", 0.5), (50, "validation/loss", 0.25)], [21])


def test_a_run_writes_both(tmp_path):
    run = Run("exp", home=Home(tmp_path))
    for step, _ in run.steps([0] * 60):
        run.log(loss=step)
    run.finish()
    assert [tag for _, tag, _ in events(run.folder)[0]].count("loss") == 2
    assert [line["step"] for line in read_metrics(run.folder)] == [50, 60]


def test_trackers_are_known_by_name_and_jsonl_is_always_there():
    assert check_trackers(()) == ("jsonl",) and check_trackers(["wandb"]) == ("jsonl", "wandb")
    with pytest.raises(InvalidInput, match="Did you mean 'wandb'"):
        check_trackers(["wandbb"])


def test_wandb_offline_or_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(Missing, match=r"pip install 'lepton-platform\[wandb\]'"):
            WeightsAndBiases(tmp_path, "exp", {})
        return
    tracker = WeightsAndBiases(tmp_path, "exp", {"seed": 0})
    tracker.write(1, {"loss": 0.5})
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_metrics_json_is_one_object_a_line(tmp_path):
    run = Run("exp", home=Home(tmp_path), track=())
    for _ in run.steps([0] * 50):
        run.log(loss=1.0, accuracy=0.5)
    line = json.loads((run.folder / "metrics.jsonl").read_text())
    assert {"step": 50, "epoch": 0, "loss": 1.0, "accuracy": 0.5}.items() <= line.items() and line["elapsed_s"] >= 0
