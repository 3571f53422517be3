"""A Keras model becomes a Model of the zoo: architecture and weights as data, and the scaling that its script did, proven.

Without proof or word of the script the weights are kept too, but as the kind `external`: a served model that scales its inputs
otherwise than its training did would answer, and be wrong.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import Corrupt, InvalidInput, Refused
from ..zoo.files import write_model
from ..zoo.manifest import Manifest
from ..zoo.store import ModelEntry, ModelStore
from .provenance import Match, Sample, find_dataset, take_sample

if TYPE_CHECKING:
    from ..base.home import Home
    from ..tasks.task import Task
    from .run import Run

_SAMPLE = "_lepton_sample"
AGREE = 1e-3
"""The largest difference of a probability between the live and the loaded model: float32, another order of sums."""


def publish(
    model: Any,
    name: str,
    *,
    dataset: str | None = None,
    input: str = "image",
    target: str = "label",
    scale: float | None = None,
    run: Run | None = None,
    home: Home | None = None,
) -> ModelEntry:
    """The next version of `name` in the zoo. `pixels * scale` is what `fit` received of column `input` of `dataset`.

    With `run`, its metrics and lineage. Raises InvalidInput if Lepton saw what `fit` received, and it was scaled otherwise.
    """
    home = run.home if run is not None else home
    match = _match(model, dataset, home)
    if match is not None and scale is not None and not np.isclose(match.scale, scale, rtol=1e-3):
        raise InvalidInput(
            "fit() received the images in another scale",
            received=f"scale={scale:.6g}",
            expected=f"scale={match.scale:.6g}, which gives the rows that fit() received",
            fix="Give that scale, or none: it is found by comparing rows.",
        )
    if match is None and dataset is not None and scale is not None:
        match = _as_said(model, dataset, input, target, scale, home)
    if run is None:
        return _push(model, name, match, {}, {}, home)
    entry = _push(model, name, match, run.metrics, {"run": run.id, **run.record.data["lineage"]}, home)
    run.record.write(model=entry.ref)
    return entry


def publish_tracked(
    model: Any, name: str, dataset: str | None, metrics: Mapping[str, float], lineage: Mapping[str, Any]
) -> ModelEntry:
    """As `publish`, at the end of a script under `lep run`, which saw what `fit` received."""
    return _push(model, name, _match(model, dataset, None), metrics, lineage, None)


def publish_in_run(run: Run, model: Any, name: str, tags: Sequence[str], metrics: Mapping[str, float]) -> ModelEntry:
    """What `run.publish` does with a Keras model."""
    lineage = {"run": run.id, **run.record.data["lineage"]}
    entry = _push(model, name, _match(model, None, run.home), metrics, lineage, run.home)
    for tag in tags:
        entry = ModelStore(run.home).tag(entry.ref, tag)
    return entry


def is_keras(model: Any) -> bool:
    return any(cls.__module__.startswith("keras.src.models") for cls in type(model).__mro__)


def load(ref: str, home: Home | None = None) -> Any:
    """The keras.Model of a published version, on torch, also where Lepton cannot serve it."""
    import torch

    from ..nets.keras import rebuild, weight_names
    from ..zoo.files import read_model

    found = read_model(ModelStore(home).resolve(ref).folder)
    config = found.manifest.network.get("config", {})
    if "architecture" not in config:
        raise Refused("this model holds no Keras architecture", received=ref, fix="Load it with la.load.")
    model = rebuild(config["architecture"])
    with torch.no_grad():
        for key, weight in zip(weight_names(model), model.weights, strict=True):
            if key not in found.tensors or tuple(found.tensors[key].shape) != tuple(weight.shape):
                raise Corrupt("the weights do not fit the architecture", received=key)
            weight.assign(np.array(found.tensors[key]))
    return model


def remember(model: Any, x: Any, y: Any) -> None:
    """Keep some rows of what `fit` received with the model, for the proof when it is published."""
    sample = take_sample(x, y)
    if sample is not None:
        # Past Keras' and torch's own attribute tracking.
        object.__setattr__(model, _SAMPLE, sample)


def _match(model: Any, dataset: str | None, home: Home | None) -> Match | None:
    sample: Sample | None = model.__dict__.get(_SAMPLE)
    return None if sample is None else find_dataset(sample, _classes(model), home, dataset)


def _classes(model: Any) -> int:
    shape = model.output_shape
    return max(2, shape[-1]) if isinstance(shape, tuple) and len(shape) == 2 else 0


def _as_said(model: Any, ref: str, input: str, target: str, scale: float, home: Home | None) -> Match:
    """The script's word for its data: class numbers follow the sorted labels."""
    from ..data.dataset import open_dataset
    from ..tasks.labels import values

    dataset = open_dataset(ref, home)
    dataset.check_columns([input, target])
    found = values(dataset.columns([target])[target], np.arange(dataset.num_rows))
    labels = sorted({label for label in found if label is not None})
    if len(labels) != _classes(model):
        raise InvalidInput(
            f"the model's outputs are not the labels of column {target!r}",
            received=f"{_classes(model)} outputs",
            expected=f"{len(labels)}, one for each label",
        )
    none = np.zeros(0, np.int64)
    return Match(dataset, input, target, scale, 0.0, none, none, labels)


def _push(
    model: Any,
    name: str,
    match: Match | None,
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
    home: Home | None,
) -> ModelEntry:
    from ..nets.keras import architecture_of, ending_of, weight_names

    tensors = dict(zip(weight_names(model), [_array(weight) for weight in model.weights], strict=True))
    try:
        config = {"architecture": architecture_of(model)}
    except Refused as error:
        config, match = {"class": f"{type(model).__module__}.{type(model).__qualname__}"}, None
        print(f"Note: {error}", file=sys.stderr)
    ends = ending_of(model, bool(getattr(model.loss, "from_logits", False))) if match else "values"
    lineage = {"recipe": "Keras", **lineage}
    if match is None or ends == "values":
        print(NOT_SERVED.format(name=name), file=sys.stderr)
        network = {"kind": "external", "config": config}
        manifest = Manifest(task="external", network=network, metrics=dict(metrics), lineage=lineage)
        return _store(manifest, tensors, {}, name, home)
    from ..tasks.model import signature

    task = _task(match)
    manifest = Manifest(
        task=task.name,
        task_state=task.state(),
        network={"kind": "keras", "config": {**config, "ends": ends, "scale": match.scale, "offset": match.offset}},
        signature=signature(task),
        metrics=_check_and_measure(model, match, ends, tensors, config, task) or dict(metrics),
        lineage={
            **lineage,
            "data": match.dataset.ref,
            "data_hash": match.dataset.content_hash,
            "scaling": _scaling(match),
        },
    )
    return _store(manifest, tensors, task.files(), name, home)


NOT_SERVED = (
    "Note: {name} is published as weights that `lep serve` cannot use: no stored dataset holds the rows that fit() received, so "
    "Lepton does not know how the script scaled them. Import the data (lep data import NAME PATH) and run it again, or say it: "
    "la.train.keras.publish(model, '{name}', dataset='NAME', scale=1/255)."
)


def _scaling(match: Match) -> str:
    word = f"proven on {len(match.rows)} rows of fit()" if len(match.rows) else "as the script said"
    return f"pixels * {match.scale:.6g} + {match.offset:.6g}, {word}"


def _task(match: Match) -> Task:
    from ..tasks.image_classification import ImageClassification
    from ..tasks.labels import Labels

    task = ImageClassification.plan(match.dataset, match.target, [match.input])
    columns = match.dataset.columns([match.input, match.target])
    task.fit(columns, match.dataset.rows("train") if _is_split(match) else np.arange(match.dataset.num_rows))
    # The script's numbering of the classes, whatever the order of their names.
    task.labels = Labels(match.labels)
    return task


def _is_split(match: Match) -> bool:
    return "split" in match.dataset.schema


def _check_and_measure(
    model: Any, match: Match, ends: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], task: Task
) -> dict[str, Any] | None:
    """Rebuild the model as a server does. Raises Corrupt if it answers otherwise than the live one; returns metrics of the
    test rows, or None if there are none that `fit` did not see."""
    import keras

    if keras.backend.backend() != "torch":
        return None
    from ..nets.registry import build, load_state
    from ..tasks.model import Model

    network = build("keras", {**config, "ends": ends, "scale": match.scale, "offset": match.offset})
    load_state(network, tensors)
    loaded = Model(task, network, Manifest(task=task.name, network={"kind": "keras"}))
    columns = match.dataset.columns([match.input, match.target])
    if len(match.rows):
        x = model.__dict__[_SAMPLE].x[match.sample_rows]
        live = _probabilities(np.asarray(model.predict(x, verbose=0), np.float64), ends)
        difference = np.abs(live - loaded.outputs(columns, match.rows)).max()
        if not difference < AGREE:
            raise Corrupt(
                "the model as it would be served answers otherwise than the one that was trained; it was not published",
                received=f"probabilities that differ by {difference:.2g}",
                expected=f"less than {AGREE}",
            )
    if not _is_split(match):
        return None
    rows = match.dataset.rows("test")
    if not len(rows):
        return None
    if np.isin(match.rows, rows).any():
        print(f"Note: fit() received test rows of {match.dataset.ref}, so they measure nothing.", file=sys.stderr)
        return None
    return {"test": {**task.metrics(task.truth(columns, rows), loaded.outputs(columns, rows)), "rows": len(rows)}}


def _probabilities(output: np.ndarray, ends: str) -> np.ndarray:
    if ends == "softmax":
        return output
    if ends == "logits":
        weights = np.exp(output - output.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)
    second = output.reshape(-1) if ends == "sigmoid" else 1 / (1 + np.exp(-output.reshape(-1)))
    return np.stack([1 - second, second], axis=1)


def _array(weight: Any) -> np.ndarray:
    value = weight.value
    return np.ascontiguousarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value.numpy())


def _store(
    manifest: Manifest, tensors: Mapping[str, np.ndarray], files: Mapping[str, bytes], name: str, home: Home | None
) -> ModelEntry:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, manifest, tensors, files)
        return ModelStore(home).push(folder, name)
