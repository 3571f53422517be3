"""Keras 3 in a run: its metrics tracked, its model published as data. Under `lep run` the script needs no line for it.

    model.fit(x, y, callbacks=[la.train.keras.Track(run)])              # the explicit form, outside `lep run`
    la.train.keras.publish(model, "mnist-keras", dataset="mnist", scale=1 / 255)

A published model carries the scale that its script applied to the images. It is proven from the rows that `fit` received
(`provenance.py`), and what the loaded model answers is compared with the live one before anything is published.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..base.home import Home
from . import keras_data
from .keras_publish import load, publish, publish_tracked, remember

if TYPE_CHECKING:
    from .run import Run

__all__ = ["Track", "Tracker", "load", "publish"]

Log = Callable[[int, int, Mapping[str, float]], None]
"""Write values at (step, epoch)."""
TERMINAL = "LEPTON_RUN_TERMINAL"
"""Set by `lep run` if a person watches."""


def Track(run: Run) -> Any:
    """A Keras callback that logs every epoch into `run`, beside `run.json` and the checkpoints of other loops."""

    def log(step: int, epoch: int, values: Mapping[str, float]) -> None:
        run.step, run.epoch = step, epoch
        run.log(values)
        _ = run.metrics  # one line an epoch, now

    return _callback(log)


def _callback(log: Log, start: int = 0) -> Any:
    import keras

    class EpochLog(keras.callbacks.Callback):
        """Counts batches over all epochs; logs what Keras reports at the end of each."""

        def __init__(self) -> None:
            super().__init__()
            self.step = start

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            log(self.step, epoch + 1, named(logs or {}))

    return EpochLog()


def named(logs: Mapping[str, Any], part: str = "") -> dict[str, float]:
    """Keras' names as ours: `val_accuracy` → `validation.accuracy`; with `part`, `accuracy` → `test.accuracy`."""
    found = {}
    for name, value in logs.items():
        if name.startswith("val_"):
            found[f"validation.{name.removeprefix('val_')}"] = float(value)
        else:
            found[f"{part}.{name}" if part else name] = float(value)
    return found


class Tracker:
    """One per process under `lep run`: sees each `fit` and `evaluate`, and publishes the model that was fitted last."""

    def __init__(self, keras: Any):
        self._keras = keras
        self._record: Any = None
        self._trackers: list[Any] = []
        self._began = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._step = self._epoch = 0
        self._model: Any = None

    @classmethod
    def attach(cls, keras: Any) -> Tracker:
        """Wrap `fit` and `evaluate` of every Keras model in this process."""
        tracker = cls(keras)
        keras_data.attach(keras)
        keras.Model.fit = tracker._watch_fit(keras.Model.fit)
        keras.Model.evaluate = tracker._watch_evaluate(keras.Model.evaluate)
        return tracker

    def _watch_fit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def fit(model: Any, *arguments: Any, **options: Any) -> Any:
            bound = signature.bind(model, *arguments, **options)
            remember(model, bound.arguments.get("x"), bound.arguments.get("y"))
            if self._open():
                self._model = model
                counter = _callback(self._log, self._step)
                callbacks = bound.arguments.get("callbacks") or []
                if isinstance(callbacks, self._keras.callbacks.CallbackList):
                    callbacks.append(counter)
                else:
                    callbacks = [*(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]), counter]
                bound.arguments["callbacks"] = callbacks
            _print_lines(bound)
            return original(*bound.args, **bound.kwargs)

        return fit

    def _watch_evaluate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def evaluate(model: Any, *arguments: Any, **options: Any) -> Any:
            bound = signature.bind(model, *arguments, **options)
            _print_lines(bound)
            answer = original(*bound.args, **bound.kwargs)
            # `fit` measures its validation data by this too, and reports that itself.
            if "_use_cached_eval_dataset" not in options and model is self._model and self._record is not None:
                self._log(self._step, self._epoch, named(model.get_metrics_result(), "test"))
            return answer

        return evaluate

    def _open(self) -> bool:
        """Take the run that `lep run` began; False if the script has a `la.Run`, which then is the place for its metrics."""
        if self._record is None and os.environ.get("LEPTON_RUN"):
            from .record import RunRecord
            from .trackers import open_trackers

            name = os.environ["LEPTON_RUN"]
            self._record = RunRecord.open(name, Home.current(), {}, resume=False)
            self._trackers = open_trackers(("jsonl", "tensorboard"), self._record.folder, name, {}, 0)
        return self._record is not None

    def _log(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        self._step, self._epoch = step, epoch
        self._metrics.update(values)
        extra = {"epoch": epoch, "elapsed_s": round(time.monotonic() - self._began, 3)}
        for tracker in self._trackers:
            tracker.write(step, {**values, **extra})
        self._record.write(step=step, epoch=epoch, metrics=self._metrics)

    def close(self) -> None:
        """The script has ended, well or not."""
        for tracker in self._trackers:
            tracker.close()

    def finish(self, name: str | None, dataset: str | None) -> None:
        """The script has ended well: publish its model as `name`."""
        if self._record is None or self._model is None or not name:
            return
        lineage = {"run": self._record.folder.name, **self._record.data["lineage"]}
        entry = publish_tracked(self._model, name, dataset, self._metrics, lineage)
        self._record.write(model=entry.ref)
        print(f"Published {entry.ref}.", file=sys.stderr)


def _print_lines(call: inspect.BoundArguments) -> None:
    """One line an epoch instead of a bar, if nobody watches: a bar of backspaces means nothing in a log."""
    if call.arguments.get("verbose", "auto") == "auto" and not os.environ.get(TERMINAL):
        call.arguments["verbose"] = 2
