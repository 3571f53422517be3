"""The contract of a runtime, and which one opens what: `onnx:model.onnx`, `keras:…`, `skops:…`, `lightgbm:…`, `export:…`, `zoo:name@v`.

Adding a format: one file with `load(path, sample) -> Runtime`, and one line in PREFIXES.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...base.errors import InvalidInput, NotFound, Refused, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from .signature import Signature

PREFIXES = {
    "onnx": ("onnx", (".onnx",)),
    "keras": ("keras", (".keras",)),
    "skops": ("sklearn", (".skops",)),
    "sklearn": ("sklearn", ()),
    "lightgbm": ("lightgbm", (".txt", ".lgb", ".lightgbm")),
    "export": ("exported", (".pt2",)),
}
"""prefix: the module of this folder that loads it, and the endings by which a bare path is known."""
MAX_FILE_BYTES = 8 << 30
UNSAFE = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".dill", ".h5", ".hdf5", ".npy", ".npz")


class Runtime(Protocol):
    """A loaded model. `run` may be called from several threads, and keeps nothing between calls.

    `example`: tensors of one row that the model takes, where the file or a sample says so; else made from the signature.
    """

    kind: str
    signature: Signature
    example: Mapping[str, np.ndarray] | None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs that `signature.check` has passed."""


def is_source(ref: str) -> bool:
    """Whether `ref` names a file for a runtime, rather than a model of the zoo."""
    return source_of(ref) is not None


def source_of(ref: str) -> tuple[str, Path] | None:
    """The prefix and the path of `onnx:model.onnx` or `model.onnx`; None for what is not a file of these formats."""
    prefix, colon, rest = ref.partition(":")
    if colon and prefix in PREFIXES:
        return prefix, Path(rest)
    path = Path(ref)
    for prefix, (_, endings) in PREFIXES.items():
        if path.suffix.lower() in endings and path.is_file():
            return prefix, path
    if path.suffix.lower() in UNSAFE and path.is_file():
        raise Refused(
            f"{path.name} is refused: {path.suffix} files can run code when opened",
            fix="Save it as ONNX, .keras, .skops, LightGBM text or a torch.export program (.pt2), and serve that.",
        )
    return None


def load(ref: str, sample: Any = None) -> Runtime:
    """The runtime of a file. `sample`: rows (list of dicts) that say what inputs the model takes, where its file does not.

    Raises NotFound, Refused for what could run code, Corrupt for a damaged file, InvalidInput for one that cannot be served.
    """
    found = source_of(ref)
    if found is None:
        raise InvalidInput("no runtime opens this", received=ref, fix=did_you_mean(ref.partition(":")[0], PREFIXES))
    prefix, path = found
    if not path.is_file():
        raise NotFound("there is no such model file", received=str(path))
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Refused("this model file is too large", received=f"{path.stat().st_size:,} bytes")
    module = importlib.import_module(f".{PREFIXES[prefix][0]}", __package__)
    runtime = module.load(path, sample)
    from .prove import proven

    return proven(runtime)
