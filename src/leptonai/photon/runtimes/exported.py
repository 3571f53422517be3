"""Programs of `torch.export` (`model.pt2`): the graph is read as JSON and run by an interpreter of listed aten operators.

`torch.export.load` is not used: it may unpickle constants and sample inputs, and it evaluates symbolic expressions as Python.
Here weights are raw bytes with a checked description, and a file that needs anything else is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, InvalidInput, LeptonError, Refused, shorten
from .archives import open_archive, read_member
from .program import DTYPES, Program
from .signature import DATATYPE, MAX_ELEMENTS, Signature, TensorSpec

if TYPE_CHECKING:
    import zipfile

    import numpy as np
    import torch

MAX_GRAPH_BYTES = 256 << 20
RESAVE = "Export it again with torch.export.export(model.eval(), …) and torch.export.save(program, 'model.pt2')."


class ExportedRuntime:
    kind = "export"

    def __init__(self, program: Program, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]):
        self.program = program
        self.example = None
        self.signature = Signature.of(inputs, outputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            given = [torch.from_numpy(_writable(inputs[spec.name])) for spec in self.signature.inputs]
            found = self.program.run(given)
        return {
            spec.name: value.contiguous().numpy() for spec, value in zip(self.signature.outputs, found, strict=True)
        }


def load(path: Path, sample: Any = None) -> ExportedRuntime:
    """Raises Refused for what would have to be unpickled or is no listed operator, Corrupt for a broken file."""
    with open_archive(path) as archive:
        names = {info.filename for info in archive.infolist()}
        models = [name for name in names if name.endswith("/models/model.json") or name == "models/model.json"]
        if len(models) != 1:
            raise Corrupt(f"{path.name} is not a program of torch.export", received=sorted(names)[:5], fix=RESAVE)
        root = models[0].removesuffix("models/model.json")
        document = _json(archive, models[0])
        weights = _tensors(archive, root + "data/weights/", "model_weights_config.json", names)
        constants = _tensors(archive, root + "data/constants/", "model_constants_config.json", names)
    try:
        return _build(document, weights, constants)
    except LeptonError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise Corrupt(f"the graph of {path.name} cannot be read", received=f"{type(error).__name__}: {error}") from None


def _build(document: dict[str, Any], weights: dict[str, Any], constants: dict[str, Any]) -> ExportedRuntime:
    module = document["graph_module"]
    graph, values = module["graph"], {}
    inputs: list[TensorSpec] = []
    for spec in module["signature"]["input_specs"]:
        ((kind, entry),) = ((key, value) for key, value in spec.items() if value is not None)
        if kind == "user_input":
            inputs.append(_input(entry["arg"], graph["tensor_values"]))
        elif kind == "parameter":
            values[entry["arg"]["name"]] = weights[entry["parameter_name"]]
        elif kind == "buffer":
            name = entry["buffer_name"]
            values[entry["arg"]["name"]] = weights[name] if name in weights else constants[name]
        elif kind == "tensor_constant":
            values[entry["arg"]["name"]] = constants[entry["tensor_constant_name"]]
        else:
            raise Refused("this exported program needs more than tensors", received=kind, fix=RESAVE)
    outputs = []
    for spec in module["signature"]["output_specs"]:
        ((kind, entry),) = ((key, value) for key, value in spec.items() if value is not None)
        if kind != "user_output":
            raise Refused("this exported program changes its own state when it runs", received=kind, fix=RESAVE)
        outputs.append(entry["arg"]["as_tensor"]["name"])
    program = Program(graph["nodes"], values, [spec.name for spec in inputs], outputs)
    found = [
        TensorSpec("output" if len(outputs) == 1 else f"output_{number}", *_described(graph["tensor_values"][name]))
        for number, name in enumerate(outputs)
    ]
    if not inputs or not found:
        raise InvalidInput("this exported program has no tensors in or out")
    return ExportedRuntime(program, tuple(inputs), tuple(found))


def _input(argument: dict[str, Any], described: dict[str, Any]) -> TensorSpec:
    if "as_tensor" not in argument:
        raise InvalidInput("an input of this exported program is no tensor", received=argument)
    name = argument["as_tensor"]["name"]
    return TensorSpec(name, *_described(described[name]))


def _described(meta: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Data type and shape of a tensor in the graph; a size that is an expression is free."""
    datatype = DATATYPE.get(DTYPES[meta["dtype"]])
    if datatype is None:
        raise InvalidInput(
            "a tensor of this exported program has a type that is not served", received=DTYPES[meta["dtype"]]
        )
    return datatype, tuple(int(size["as_int"]) if "as_int" in size else -1 for size in meta["sizes"])


def _tensors(archive: zipfile.ZipFile, folder: str, config: str, names: set[str]) -> dict[str, torch.Tensor]:
    if folder + config not in names:
        return {}
    entries = _json(archive, folder + config).get("config")
    if not isinstance(entries, dict):
        raise Corrupt(f"{config} in the archive is malformed")
    found, files = {}, {}
    for name, entry in entries.items():
        try:
            path, pickled, meta = folder + str(entry["path_name"]), entry["use_pickle"], entry["tensor_meta"]
            if pickled is not False or not meta:
                raise Refused(f"the weight {shorten(name)!r} of this program is kept as a pickle", fix=RESAVE)
            if path not in names:
                raise Corrupt(f"the weight {shorten(name)!r} is missing from the archive")
            if path not in files:
                files[path] = read_member(archive, path, archive.getinfo(path).file_size)
            found[name] = _tensor(files[path], meta, name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"the description of weight {shorten(name)!r} is malformed", received=repr(error)) from None
    return found


def _tensor(data: bytes, meta: dict[str, Any], name: str) -> torch.Tensor:
    import torch

    dtype = getattr(torch, DTYPES[meta["dtype"]])
    sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    held = len(data) // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True) if size)
    negative = any(size < 0 for size in (*sizes, *strides, offset))
    if negative or len(sizes) > 32 or math.prod(sizes) > MAX_ELEMENTS * 8 or (math.prod(sizes) and last >= held):
        raise Corrupt(
            f"the weight {shorten(name)!r} does not fit its bytes", received=f"shape {sizes}, {len(data):,} bytes"
        )
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(data[: held * dtype.itemsize]), dtype=dtype)
    return flat.as_strided(sizes, strides, offset).clone()


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        found = json.loads(read_member(archive, name, MAX_GRAPH_BYTES))
    except (ValueError, RecursionError):
        raise Corrupt(f"{name} in the archive is not JSON") from None
    if not isinstance(found, dict):
        raise Corrupt(f"{name} in the archive is not an object")
    return found


def _writable(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.require(
        array, requirements=("C", "W")
    )  # torch warns of memory that it may not write, and never writes here
