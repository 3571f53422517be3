"""A Model: task + network + manifest. Owns inference, alike for a notebook, an evaluation and a server, and the way to disk and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import Corrupt, InvalidInput, Refused
from ..nets.quantized import Quantized, restore_weights
from ..nets.registry import is_learner, restore, state_of
from .arrays import count_rows
from .registry import task_class
from .task import Task

if TYPE_CHECKING:
    from ..base.home import Home
    from ..zoo.manifest import Manifest

# Rows of a request or a frame that become columns at a time; bounds the memory of a long list.
CHUNK_ROWS = 10_000


class Model:
    """Inference only and safe to call from several threads: the network is in eval mode and nothing is kept between calls."""

    def __init__(self, task: Task, network: Any, manifest: Manifest):
        self.task, self.network, self.manifest = task, network, manifest
        if not is_learner(network):
            network.eval()

    def outputs(self, columns: Mapping[str, Any], rows: np.ndarray | None = None, batch: int = 1024) -> np.ndarray:
        """Probabilities (n, classes) float32 or values (n,) float64 of `rows` (None: all), `batch` rows at a time."""
        if rows is None:
            rows = np.arange(count_rows(columns, [column.name for column in self.task.inputs]))
        starts = range(0, len(rows), batch)
        parts = [self._raw(self.task.encode(columns, rows[start : start + batch]).inputs) for start in starts]
        nothing = np.empty((0, len(self.task.classes)) if self.task.classes else 0, np.float32)
        return self.task.finish(np.concatenate(parts) if parts else nothing)

    def _raw(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if is_learner(self.network):
            return self.network.predict(inputs)
        import torch

        device = next((tensor.device for tensor in self.network.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in inputs.items()}
            return self.network(**tensors).float().cpu().numpy()

    def predict(self, data: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """One row (a dict) gives one prediction; a list of rows, a DataFrame, an Arrow table or a Dataset gives a list."""
        if isinstance(data, Mapping):
            return self.predict_rows([data])[0]
        if hasattr(data, "content_hash"):  # a Dataset: its columns are read as training reads them
            columns = data.columns([column.name for column in self.task.inputs])
            return self.task.decode(self.outputs(columns))
        return [prediction for rows in _chunks(data) for prediction in self.predict_rows(rows)]

    def predict_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predictions of JSON rows; raise InvalidInput that names the row and the column."""
        return self.task.decode(self.outputs(self.task.columns_of(rows))) if rows else []

    def save(self, folder: str | Path) -> Path:
        """Write the model to a new folder: `lepton.json`, `model.safetensors`, vocabulary files, and its card if it has one."""
        from ..zoo.files import write_model

        folder = Path(folder)
        quantized = getattr(self.network, "quantized", None)
        state = state_of(self.network)
        write_model(
            folder, self.manifest, state if quantized is None else {**state, **quantized.tensors}, self.task.files()
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """Read a model's folder: every hash is verified and no code is run; raise Corrupt, Refused or NotFound."""
        from ..zoo.files import read_model

        found = read_model(Path(folder))
        kind = found.manifest.network.get("kind")
        if kind == "external":
            raise Refused(
                f"model {found.manifest.name!r} has a network that Lepton cannot build by itself, and code from a model folder is never run",
                fix="Load its model.safetensors in your own program, into the network that you trained.",
            )
        try:
            task = task_class(found.manifest.task).from_state(found.manifest.task_state, found.files)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Corrupt(f"the preprocessing of model {found.manifest.name!r} cannot be read ({error!r})") from error
        table = found.manifest.network.get("quantized")
        tensors = found.tensors if table is None else restore_weights(found.tensors, table)
        network = restore(kind, found.manifest.network.get("config", {}), tensors)
        if table is not None:
            kept = {
                name: found.tensors[name] for name in found.tensors if name not in tensors or name in table["shapes"]
            }
            network.quantized = Quantized(table, kept)
        return cls(task, network, found.manifest)

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"Model({manifest.name}@{manifest.version}, {self.task.name}, {manifest.network['kind']})"


def load(ref: str | Path, home: Home | None = None) -> Model:
    """A model by folder, or by name from the zoo: `la.load("mnist")`, `la.load("mnist@3")`, `la.load("mnist@production")`."""
    if isinstance(ref, Path) or (Path(ref) / "lepton.json").is_file() or "/" in ref:
        return Model.load(ref)
    from ..zoo.store import ModelStore

    return Model.load(ModelStore(home).resolve(ref).folder)


def network_manifest(network: Any) -> dict[str, Any]:
    """What a manifest keeps of a network, so that `build` makes it again."""
    quantized = getattr(network, "quantized", None)
    found = {"kind": network.kind, "config": network.config}
    return found if quantized is None else {**found, "quantized": quantized.table}


def signature(task: Task) -> dict[str, Any]:
    """What goes in and comes out, as JSON Schema: for manifests and OpenAPI."""
    return {"inputs": task.request_schema, "outputs": task.response_schema}


def _chunks(data: Any) -> Iterator[list[Mapping[str, Any]]]:
    """Rows of a list, a DataFrame or an Arrow table, some thousand at a time."""
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        import pyarrow as pa

        data = pa.Table.from_pandas(data, preserve_index=False)
    if hasattr(data, "to_batches"):
        for batch in data.to_batches(max_chunksize=CHUNK_ROWS):
            yield batch.to_pylist()
    elif isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        for start in range(0, len(data), CHUNK_ROWS):
            yield list(data[start : start + CHUNK_ROWS])
    else:
        raise InvalidInput(
            "a model cannot predict this",
            received=type(data).__name__,
            expected="a row (dict), a list of rows, a DataFrame, an Arrow table or a Dataset",
        )
