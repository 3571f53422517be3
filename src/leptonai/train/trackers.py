"""Where metrics go: JSONL always, TensorBoard event files, Weights & Biases. One line of values at one step, written once.

After a crash the files may hold steps that the checkpoint does not know; a tracker opened at a step forgets what came after.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import InvalidInput, Missing, did_you_mean, disk_errors

Values = Mapping[str, float]


class Tracker(Protocol):
    def write(self, step: int, values: Values) -> None: ...
    def sync(self) -> None:
        """Make what was written durable; called before a checkpoint."""

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: `{"step": 50, "epoch": 1, "loss": 0.31, …}`, steps never go back, and no line is cut."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        kept = keep_until(self.path, step)
        with disk_errors(str(self.path)):
            self._file = open(self.path, "ab")  # noqa: SIM115 (kept open for the run)
            self._file.truncate(kept)

    def write(self, step: int, values: Values) -> None:
        # JSON has no NaN; null says that the value was not a number.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with disk_errors(str(self.path)):
            self._file.write(json.dumps({"step": step, **finite}).encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        with disk_errors(str(self.path)):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def keep_until(path: Path, step: int) -> int:
    """How many bytes of a metrics file are whole lines of steps up to `step`."""
    kept = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept += len(line)
    return kept


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; a last line that is being written is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir` shows them."""

    def __init__(self, folder: Path, step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise Missing("tensorboardX", "train") from None
        # purge_step hides, in the viewer, what an earlier process wrote after the checkpoint that is continued.
        # Its file names have the second in them: without a suffix, a run continued within it would overwrite the file.
        suffix = f".{secrets.token_hex(4)}"
        purge_step = step + 1 if step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10, filename_suffix=suffix)

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/"), value, step)

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run with our id; `WANDB_MODE=offline` keeps it on this machine. W&B drops steps that it already has."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise Missing("wandb", "wandb") from None
        self._run = wandb.init(
            project="lepton", id=folder.name, name=name, dir=str(folder), config=dict(settings), resume="allow"
        )

    def write(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


TRACKERS = ("jsonl", "tensorboard", "wandb")


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in TRACKERS:
            raise InvalidInput("there is no such tracker", received=name, fix=did_you_mean(str(name), TRACKERS))
    return tuple(dict.fromkeys(("jsonl", *names)))


def open_trackers(
    names: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any], step: int
) -> list[Tracker]:
    """Open each tracker so that it continues after `step`."""
    makers = {
        "jsonl": lambda: JsonLines(folder, step),
        "tensorboard": lambda: TensorBoard(folder, step),
        "wandb": lambda: WeightsAndBiases(folder, name, settings),
    }
    return [makers[tracker]() for tracker in names]
