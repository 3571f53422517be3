"""Your own training loop, made safe: `la.Run`. It owns where the training stands, and brings it back there after any end.

    run = la.Run("my-exp", seed=0)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    for step, batch in run.steps(loader, until="5 epochs"):
        run.backward(loss(model, batch)); optimizer.step(); optimizer.zero_grad()
        run.log(loss=loss)

A step is one batch. A checkpoint lies between two steps, on the border of an accumulation, and holds everything the next step
depends on; so a run that is killed and started again ends with the same weights, bit for bit.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..base.errors import Conflict, DiskFull, InvalidInput
from ..base.home import Home
from ..base.progress import Progress
from .budget import Clock, Span, seconds
from .checkpoint import CheckpointStore
from .journal import Journal
from .optim import check_positive
from .parts import Parts
from .precision import DTYPES, check_precision
from .record import RunRecord
from .seeds import RandomState, seed_everything, stream
from .signals import EXITS, Signals
from .sources import Source, as_source
from .stopping import EarlyStop
from .trackers import Tracker, check_trackers, open_trackers

if TYPE_CHECKING:
    from ..zoo.store import ModelEntry


class Run:
    """One training, in `runs/<id>/`. Making one seeds torch, NumPy and Python, so make the model after it.

    `accumulate`: batches per optimizer step. `clip`: the gradient norm at most. `ema`: decay of averaged weights.
    `checkpoint_every`: "60 seconds", "500 steps" or "1 epoch". `keep`: how many checkpoints stay. `resume`: continue the newest
    unfinished run of this name. `time_budget`: seconds, or "5m", that the loop ends within, counted over all its processes.
    Raises Conflict if another process trains this run, or it was begun with another seed or precision.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        home: Home | None = None,
        precision: str = "fp32",
        accumulate: int = 1,
        clip: float | None = None,
        ema: float | None = None,
        checkpoint_every: str | int = "60 seconds",
        keep: int = 2,
        resume: bool = True,
        track: Sequence[str] = ("jsonl", "tensorboard"),
        time_budget: str | float | None = None,
    ):
        self._clock = Clock()
        self.home, self.seed, self.precision = (
            home or Home.current(),
            check_whole("seed", seed, 0),
            check_precision(precision),
        )
        self.accumulate, keep = check_whole("number of batches", accumulate), check_whole("number of checkpoints", keep)
        if clip is not None:
            check_positive("gradient norm to clip at", clip)
        if ema is not None and not (isinstance(ema, float) and 0 < ema < 1):
            raise InvalidInput(
                "this is not a decay of averaged weights", received=ema, expected="a number between 0 and 1, like 0.999"
            )
        self.checkpoint_every, self._track = Span.parse(checkpoint_every), check_trackers(track)
        self.time_budget_s = None if time_budget is None else seconds(time_budget)
        self.state: dict[str, Any] = {}
        """The caller's own state, kept in every checkpoint: numbers, text, tensors, and dicts and lists of them."""
        self.stop_reason: str | None = None
        """Why the loop ended before it had all its steps."""
        self.step = self.epoch = self.batch = 0
        """`step`: of this batch, from 1. `epoch`: from 0. `batch`: of this batch in its epoch, from 1."""
        self.epoch_ends = False
        """Whether this batch is the last of its epoch: the place to evaluate."""
        settings = {"seed": seed, "precision": precision, "accumulate": accumulate, "clip": clip, "ema": ema}
        self.record = RunRecord.open(name, self.home, settings, resume)
        self._journal = Journal(self._open_trackers)
        self._progress: Progress | None = None
        self._boundary, self._group, self._looping = True, 1, False
        self._store = CheckpointStore(self.folder / "checkpoints", keep, self._warn)
        saved = self._restore()
        self._parts = Parts(
            saved, lambda: self._boundary, precision=precision, accumulate=accumulate, clip=clip, ema=ema
        )
        atexit.register(self._at_exit)

    def _restore(self) -> Mapping[str, Any]:
        """Stand where the newest checkpoint stands, or at the beginning. Parts are restored when they are prepared."""
        seed_everything(stream(self.seed, "init"))
        self._store.clear_unfinished()
        checkpoint = self._store.newest()
        self._saved_step, self._random, self._read_from = 0, None, None
        if checkpoint is None:
            return {}
        saved, cursor = checkpoint.parts, checkpoint.parts["cursor"]
        self.step, self.epoch, self.batch = cursor["step"], cursor["epoch"], cursor["batch"]
        self._clock.earlier_s, self._read_from, self.stop_reason = (
            cursor["elapsed_s"],
            cursor["loader"],
            cursor["stopped"],
        )
        self._saved_step, self._random = self.step, RandomState(**saved["random"])
        self.state, self._journal.last = saved["state"], saved["metrics"]
        self._journal.stops = {name: EarlyStop(**state) for name, state in saved["stops"].items()}
        self._say(f"run {self.id}: continuing after step {self.step}")
        self.record.event(f"continued after step {self.step}")
        return saved

    # Where it stands

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def elapsed_s(self) -> float:
        """Time since the run was made, in all its processes."""
        return self._clock.elapsed_s

    @property
    def reserve_s(self) -> float:
        """Seconds of the time budget that the loop leaves for what comes after it."""
        return self._clock.reserve_s

    @reserve_s.setter
    def reserve_s(self, value: float) -> None:
        self._clock.reserve_s = value

    @property
    def progress(self) -> float:
        """How much of the training is done, in [0, 1], at the middle of this step: by steps, or by time where that is further."""
        by_steps = max(0.0, self.step - 0.5) / self._last_step if self._last_step else 0.0
        return min(1.0, max(by_steps, self._clock.progress()))

    @property
    def batches_per_epoch(self) -> int:
        """Of the loader that the loop reads."""
        return self._per_epoch

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of everything that was logged."""
        self._flush()
        return dict(self._journal.last)

    # The loop

    def prepare(self, *parts: Any) -> Any:
        """Give the run your models, optimizers, loaders and schedule; they come back in the same order, restored if it resumes.

        A schedule is a function of progress (`make_schedule`), or one of torch's, which you step yourself. What comes back are the
        same objects, except DataLoaders and iterables: their order is computed, not remembered.
        """
        prepared = tuple(self._prepare(part) for part in parts)
        return prepared[0] if len(prepared) == 1 else prepared

    def _prepare(self, part: Any) -> Any:
        if isinstance(part, torch.nn.Module):
            return self._parts.add_model(part)
        if isinstance(part, torch.optim.Optimizer):
            return self._parts.add_optimizer(part)
        if hasattr(part, "step") and hasattr(part, "load_state_dict"):
            return self._parts.add_scheduler(part)
        if callable(part) and not hasattr(part, "__iter__"):
            self._parts.schedule = part
            return part
        return as_source(part, self.seed)

    def steps(self, loader: Any, until: str | int | Span = "1 epoch") -> Iterator[tuple[int, Any]]:
        """Yield (step, batch) from where the run stands until it has had `until` in all, its earlier processes included.

        Saves every `checkpoint_every` and at the end. On SIGTERM or SIGINT it saves and exits with 143 or 130.
        Raises Conflict if the loader is not like the one that the checkpoint was made with.
        """
        source = as_source(loader, self.seed)
        self._plan(source, Span.parse(until))
        if not self._is_over():
            self._check_loader(source)
            self._looping = True
            with Signals() as self._signals:
                while not self._is_over():
                    batches = islice(source.batches(self.epoch, self.batch), self._per_epoch - self.batch)
                    self._restore_random()
                    for batch in batches:
                        self._before_step()
                        yield self.step, batch
                        self._after_step()
                        if self._is_over():
                            break
                    else:
                        self._check_epoch()
                self._end()
        self._restore_random()

    def _plan(self, source: Source, until: Span) -> None:
        """Fix what every step is compared with."""
        self._source, self._per_epoch = source, len(source)
        self._last_step = until.steps(self._per_epoch)
        self._clock.start([until.value if until.unit == "seconds" else None, self.time_budget_s])
        self._save_steps = self.checkpoint_every.steps(self._per_epoch)
        self._saved_at = self._clock.now
        left_s = None if self._clock.limit_s is None else self._clock.limit_s - self.elapsed_s
        self._progress = Progress(self.id, self._last_step, done=self.step, seconds_total=left_s)

    def _is_over(self) -> bool:
        """Whether the loop has ended; only where an optimizer step is complete."""
        if not self._boundary:
            return False
        if self._last_step is not None and self.step >= self._last_step:
            return True
        return self.stop_reason is not None or self._clock.is_late()

    def _before_step(self) -> None:
        self.step += 1
        self.batch += 1
        self.epoch_ends = self.batch == self._per_epoch
        if self.accumulate > 1:
            self._find_group()
        if self._parts.schedule is not None:
            self._parts.set_learning_rate(self.progress)

    def _find_group(self) -> None:
        """How many batches share this optimizer step, and whether this is the last of them. An epoch's last group may be smaller."""
        first = self.batch - (self.batch - 1) % self.accumulate
        left = self._per_epoch if self._last_step is None else self._last_step - self.step
        last = min(first + self.accumulate - 1, self._per_epoch, self.batch + left)
        self._group, self._boundary = last - first + 1, self.batch == last

    def _after_step(self) -> None:
        self._clock.tick()
        if self._journal.is_full:
            self._flush()
        if self.epoch_ends:
            self.epoch, self.batch = self.epoch + 1, 0
        if self._clock.now >= self._progress.due_at:
            self._progress.show(self.step, self._journal.shown())
        if self._boundary:
            if self._signals.received:
                self._leave(self._signals.received)
            if self._save_is_due():
                self.save()

    def _save_is_due(self) -> bool:
        if self._save_steps is None:
            return self._clock.now - self._saved_at >= self.checkpoint_every.value
        return self.step - self._saved_step >= self._save_steps

    def backward(self, loss: torch.Tensor) -> None:
        """`loss.backward()`: divided by the batches that share the optimizer step, and scaled for fp16."""
        self._parts.backward(loss / self._group if self._group > 1 else loss)

    def autocast(self) -> AbstractContextManager:
        """The run's precision for what is computed outside a prepared model's forward."""
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self._parts.device_type, dtype)

    def averaged(self) -> AbstractContextManager:
        """Within it the models have their averaged weights; without `ema`, their own."""
        return self._parts.averaged()

    # What is measured

    def log(self, values: Mapping[str, float | torch.Tensor] | None = None, /, **more: float | torch.Tensor) -> None:
        """Note values of this step. Tensors are read later, many at a time; each line has the means since the one before."""
        reason = self._journal.add(self.step, self.epoch, more if values is None else {**values, **more})
        if reason is not None:
            self.stop_reason = reason

    def log_at(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of `step` now: for a loop that is not ours (Keras, scikit-learn)."""
        self.step = max(self.step, step)
        self.log(values)
        self._flush()

    def stop_if(self, metric: str, patience: int, mode: str = "min") -> EarlyStop:
        """End the loop when `metric`, as logged, has not improved `patience` times in a row. Resumes with its count."""
        return self._journal.stops.setdefault(metric, EarlyStop(metric, patience, mode))

    def stop(self, reason: str) -> None:
        """End the loop after this step."""
        self.stop_reason = reason

    def _flush(self) -> None:
        self._journal.flush({"elapsed_s": round(self.elapsed_s, 3), **self._parts.learning_rate()})

    def _open_trackers(self) -> list[Tracker]:
        about = self.record.data
        return open_trackers(self._track, self.folder, about["name"], about["settings"], self._saved_step)

    # Saving, and ends

    def save(self) -> None:
        """Write a checkpoint. The loop does so by itself; it must lie between an optimizer step and the next batch."""
        began_s = self.elapsed_s
        self._flush()
        self._journal.sync()
        cursor = {"step": self.step, "epoch": self.epoch, "batch": self.batch, "elapsed_s": self.elapsed_s}
        run = {
            "cursor": {**cursor, "loader": self._read(self._source), "stopped": self.stop_reason},
            "random": vars(RandomState.capture()),
            "state": self.state,
            "metrics": self._journal.last,
            "stops": {name: stop.state() for name, stop in self._journal.stops.items()},
        }
        path = self._store.save(self.step, {**self._parts.saved(), **run})
        self._saved_step = self.step
        self._clock.save_s = max(self._clock.save_s, self.elapsed_s - began_s)
        self.record.write(step=self.step, epoch=self.epoch, metrics=self._journal.last, checkpoint=path.name)
        self._saved_at = time.monotonic()

    def _restore_random(self) -> None:
        """Put the generators where the checkpoint had them, once its place in the epoch is found."""
        if self._random is not None:
            self._random.restore()
            self._random = None

    def _read(self, source: Source) -> dict[str, Any]:
        """What the loop reads: the loader's shape, and the version of the data where it is known."""
        return {**source.fingerprint(), "data_hash": self.record.data["lineage"].get("data_hash")}

    def _check_loader(self, source: Source) -> None:
        before, self._read_from = self._read_from, None
        if before not in (None, self._read(source)):
            raise Conflict(
                "the data are not those that the checkpoint was made with", received=self._read(source), expected=f"{before}",
                fix="Give the same data and batch size to continue the run, or resume=False to begin a new one.",
            )  # fmt: skip

    def _check_epoch(self) -> None:
        if self.batch:
            found, expected = f"{self.batch} batches", f"{self._per_epoch}, as len() says"
            raise InvalidInput("the loader ended before its length", received=found, expected=expected)

    def _leave(self, number: int) -> None:
        """A signal: save, say how to go on, and exit as a shell expects."""
        self.save()
        self._journal.close()
        self.record.write(status="stopped")
        self._progress.show(self.step, self._journal.shown(), last=True)
        self._say(
            f"run {self.id}: stopped by {EXITS[number]} at step {self.step}, saved. Run the same command again to continue."
        )
        raise SystemExit(128 + number)

    def _end(self) -> None:
        """The loop has had all its steps, or its time, or was stopped for a reason."""
        self._looping = False
        if self._saved_step != self.step:
            self.save()
        if self.stop_reason is None and self.step != self._last_step:
            self.stop_reason = f"the time of {self._clock.limit_s:g} seconds is used"
        self._progress.show(self.step, self._journal.shown(), last=True)
        if self.stop_reason:
            self._say(f"run {self.id}: ended at step {self.step}: {self.stop_reason}")
        self.record.write(trained=True, stop_reason=self.stop_reason, step=self.step, epoch=self.epoch)

    def finish(self, status: str = "finished") -> None:
        """Close the run's files and say how it ended: `finished`, `stopped` or `failed`. Comes by itself when the process ends."""
        atexit.unregister(self._at_exit)
        self._flush()
        self._journal.close()
        self._parts.release()
        self.record.write(status=status, step=self.step, epoch=self.epoch, metrics=self._journal.last)
        self.record.close()

    def _at_exit(self) -> None:
        if not self.record.is_ours():
            return
        # sys.last_value is what ended the process, if an exception did. A loop left by `break` or an exit can be continued.
        failed = getattr(sys, "last_value", None) is not None
        with suppress(DiskFull):  # already said, by the error that ended the process
            self.finish("failed" if failed else "stopped" if self._looping else "finished")

    def publish(
        self, model: torch.nn.Module, name: str, *, tags: Sequence[str] = (), metrics: Mapping[str, float] | None = None
    ) -> ModelEntry:
        """Push `model`'s weights (averaged, with `ema`) to the zoo as the next version of `name`, and finish the run.

        The network is the kind `external`: its weights and lineage are kept, and your code builds it. `metrics`: default the run's.
        A Keras model is published as `la.train.keras.publish` does it, and can be served.
        """
        from .external import publish_external
        from .keras_publish import is_keras, publish_in_run

        push = publish_in_run if is_keras(model) else publish_external
        with self.averaged():
            entry = push(self, model, name, tags, self.metrics if metrics is None else dict(metrics))
        self.record.data["model"] = entry.ref
        self.finish()
        return entry

    def _say(self, sentence: str) -> None:
        if self._progress is not None:
            self._progress.say(sentence)
        else:
            print(sentence, file=sys.stderr)

    def _warn(self, sentence: str) -> None:
        self._say(f"Warning: {sentence}.")
        self.record.event(sentence)


def check_whole(what: str, value: int, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"this is not a {what}", received=value, expected=f"a whole number of at least {least}")
    return value
