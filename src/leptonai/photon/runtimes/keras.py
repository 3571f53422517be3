"""Keras 3 files (`model.keras`, extra `keras`): the architecture is checked as data, the weights are read as plain arrays.

Nothing of Keras' own loader for whole files is used: the archive is read here, `nets/keras.py` builds built-in layers only.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, LeptonError, Refused
from .archives import open_archive, read_member
from .signature import DATATYPE, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MAX_CONFIG_BYTES = 64 << 20


class KerasRuntime:
    kind = "keras"

    def __init__(self, model: Any):
        self.model = model
        self.example = None
        given, made = model.inputs[0], model.outputs[0]
        self.signature = Signature.of((_spec(given, given.name or "input"),), (_spec(made, "output"),))
        self._input = self.signature.inputs[0].name
        self._many = None in model.input_shape[1:]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            value = torch.from_numpy(inputs[self._input].copy())
            return {"output": self.model(value, training=False).detach().cpu().numpy()}


def load(path: Path, sample: Any = None) -> KerasRuntime:
    """Raises Refused for parts that are not built in and for weights that lead to other files, Corrupt for a broken file."""
    from ...nets.keras import rebuild

    with open_archive(path) as archive:
        names = {info.filename for info in archive.infolist()}
        if not {CONFIG, WEIGHTS} <= names:
            raise Corrupt(
                f"{path.name} is not a .keras file", received=sorted(names)[:5], expected=f"{CONFIG} and {WEIGHTS}"
            )
        try:
            config = json.loads(read_member(archive, CONFIG, MAX_CONFIG_BYTES))
        except (ValueError, RecursionError):
            raise Corrupt(f"{CONFIG} of {path.name} is not JSON") from None
        weights = read_member(archive, WEIGHTS, path.stat().st_size * 100)
    if not isinstance(config, dict):
        raise Corrupt(f"{CONFIG} of {path.name} is not an object")
    # What `compile` was told holds losses and optimisers: serving needs neither, so none is read.
    parts = {key: config[key] for key in ("module", "class_name", "config", "registered_name") if key in config}
    model = rebuild(_without_addresses(parts))
    check_weights(weights, path.name)
    _load_weights(model, weights, path.name)
    return KerasRuntime(model)


def _without_addresses(node: Any, depth: int = 0) -> Any:
    """Keras writes the addresses of shared parts into a file; layers are shared by name, so nothing reads them."""
    if depth > 100:
        raise Refused("the Keras architecture is nested too deeply")
    if isinstance(node, dict):
        return {key: _without_addresses(part, depth + 1) for key, part in node.items() if key != "shared_object_id"}
    return [_without_addresses(part, depth + 1) for part in node] if isinstance(node, list) else node


def check_weights(data: bytes, name: str) -> None:
    """Raise Refused for links and for datasets kept in other files: an HDF5 file from a stranger may point anywhere."""
    import h5py

    def walk(group: Any, depth: int) -> None:
        if depth > 40:
            raise Refused(f"the weights of {name} are nested too deeply")
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise Refused(f"the weights of {name} hold a link", received=f"{group.name}/{key}")
            part = group[key]
            if isinstance(part, h5py.Group):
                walk(part, depth + 1)
            elif part.external or part.is_virtual or part.dtype.kind not in "biufVSO":
                raise Refused(f"the weights of {name} lead to another file", received=part.name)

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            walk(file, 0)
    except LeptonError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError … for a broken file
        raise Corrupt(f"the weights of {name} cannot be read", received=f"{type(error).__name__}: {error}") from None


def _load_weights(model: Any, data: bytes, name: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
        file.write(data)
        file.flush()
        try:
            model.load_weights(file.name)
        except LeptonError:
            raise
        except Exception as error:
            raise Corrupt(
                f"the weights of {name} do not fit its layers", received=f"{type(error).__name__}: {error}"
            ) from None


def _spec(tensor: Any, name: str) -> TensorSpec:
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    return TensorSpec(name, DATATYPE.get(str(tensor.dtype), "FP32"), shape)
