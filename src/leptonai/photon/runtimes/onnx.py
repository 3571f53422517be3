"""ONNX models by onnxruntime (extra `onnx`). Owns the check that a model file reads no other file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, InvalidInput, LeptonError, Missing, Refused
from .signature import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

DATATYPES = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_LENGTHS_DEEP = 24


class OnnxRuntime:
    kind = "onnx"

    def __init__(self, session: Any):
        self.session = session
        self.example = None
        outputs = [_spec(one) for one in session.get_outputs() if one.type.startswith("tensor(")]
        self.signature = Signature.of(tuple(_spec(one) for one in session.get_inputs()), tuple(outputs))
        self._outputs = [spec.name for spec in outputs]
        self._texts = [spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"]
        if not outputs or not self.signature.inputs:
            raise InvalidInput(
                "this ONNX model has no tensors in or out", received=[o.type for o in session.get_outputs()]
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = dict(inputs)
        for name in self._texts:
            feed[name] = _decoded(feed[name])
        try:
            found = self.session.run(self._outputs, feed)
        except Exception as error:
            # onnxruntime raises its own classes: an input that passed the signature and still does not fit (a free size).
            if "InvalidArgument" in type(error).__name__:
                raise InvalidInput("the model does not take this", received=_first_line(error)) from None
            raise
        return dict(zip(self._outputs, map(_encoded, found), strict=True))


def load(path: Path, sample: Any = None) -> OnnxRuntime:
    return open_bytes(path.read_bytes(), path.name)


def open_bytes(data: bytes, name: str) -> OnnxRuntime:
    """Raises Corrupt for bytes that are no ONNX model, Refused for one that names other files."""
    refuse_other_files(data, name)
    try:
        import onnxruntime
    except ImportError as error:
        raise Missing("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    # Threads that spin between calls take the core that reads requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return OnnxRuntime(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
    except LeptonError:
        raise
    except Exception as error:
        raise Corrupt(f"{name} cannot be read as an ONNX model", received=_first_line(error)) from None


def refuse_other_files(data: bytes, name: str) -> None:
    """Raise Refused if a tensor's data are in another file (`data_location` EXTERNAL): a path from a model is not opened."""
    if _is_external(memoryview(data), ("model",)):
        raise Refused(
            f"{name} keeps tensors in other files, whose paths are not opened",
            fix="Save it with its weights inside: onnx.save(model, path, save_as_external_data=False).",
        )


# Field numbers of the ONNX protobuf by which a TensorProto is reached, and the message that each leads to.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13


def _is_external(message: memoryview, where: tuple[str, ...]) -> bool:
    """Walk the wire format. Raises Corrupt where it is broken or deeper than any real model."""
    if len(where) > _LENGTHS_DEEP:
        raise Corrupt("the ONNX model is nested too deeply")
    kind, position, size = where[-1], 0, len(message)
    known = _FIELDS.get(kind, {})
    while position < size:
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            if kind == "tensor" and field == _DATA_LOCATION and value:
                return True
        elif wire == 1 or wire == 5:
            position += 8 if wire == 1 else 4
        elif wire == 2:
            length, position = _varint(message, position)
            if length > size - position:
                raise Corrupt("the ONNX model is cut short")
            if kind == "tensor" and field == _EXTERNAL_DATA:
                return True
            if field in known and _is_external(message[position : position + length], (*where, known[field])):
                return True
            position += length
        else:
            raise Corrupt("this is not an ONNX model")
    if position != size:
        raise Corrupt("the ONNX model is cut short")
    return False


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise Corrupt("the ONNX model is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Corrupt("this is not an ONNX model")


def _spec(one: Any) -> TensorSpec:
    kind = one.type.removeprefix("tensor(").removesuffix(")")
    if kind not in DATATYPES:
        raise InvalidInput(f"the model's tensor {one.name!r} has a type that is not served", received=one.type)
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in one.shape)
    return TensorSpec(one.name, DATATYPES[kind], shape)


def _decoded(texts: np.ndarray) -> np.ndarray:
    import numpy as np

    flat = np.empty(texts.size, object)
    flat[:] = [text.decode("utf-8", "replace") for text in texts.reshape(-1)]
    return flat.reshape(texts.shape)


def _encoded(value: Any) -> Any:
    import numpy as np

    if value.dtype.kind not in "OU":
        return value
    flat = np.empty(value.size, object)
    flat[:] = [str(text).encode() for text in value.reshape(-1)]
    return flat.reshape(value.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
