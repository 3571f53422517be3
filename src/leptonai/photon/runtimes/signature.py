"""What goes into a model and what comes out: names, data types of the Open Inference Protocol, shapes. Owns the check of tensors.

A size of −1 is free. Tensors are numpy arrays; BYTES is an object array of `bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    import numpy as np

NUMPY = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""Data types of the protocol and the numpy types that hold them."""
DATATYPE = {name: datatype for datatype, name in NUMPY.items()}
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `shape` includes the first axis, which holds the rows of a batched model."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def numpy(self) -> str:
        return NUMPY[self.datatype]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Signature:
    """`batched`: the first axis of every input and output holds independent rows, so requests may be computed together."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool

    @classmethod
    def of(cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Signature:
        """Batched if every first axis is free; a runtime proves it when it is loaded (`prove.py`)."""
        return cls(inputs, outputs, all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs)))

    @property
    def fixed(self) -> bool:
        """Whether every size but the first is known, so that all rows have one shape."""
        return all(size >= 0 for spec in self.inputs for size in spec.shape[1:])

    def check(self, tensors: Mapping[str, np.ndarray]) -> int:
        """The number of rows of `tensors` (1 for a model that is not batched); raise InvalidInput that says which is wrong."""
        names = [spec.name for spec in self.inputs]
        for name in tensors:
            if name not in names:
                raise InvalidInput("the model has no such input", received=name, fix=did_you_mean(name, names))
        rows: int | None = None
        for spec in self.inputs:
            if spec.name not in tensors:
                raise InvalidInput(f"the input {spec.name!r} is missing", received=list(tensors), expected=f"{names}")
            tensor = tensors[spec.name]
            check_tensor(spec, tensor)
            if self.batched:
                if rows is not None and len(tensor) != rows:
                    raise InvalidInput(
                        f"input {spec.name!r} has another number of rows than {names[0]!r}",
                        received=len(tensor),
                        expected=str(rows),
                    )
                rows = len(tensor)
        if rows == 0:
            raise InvalidInput("there are no rows", received=f"shape {list(tensor.shape)}", expected="at least one row")
        return rows or 1


def check_tensor(spec: TensorSpec, tensor: np.ndarray) -> None:
    if str(tensor.dtype) != spec.numpy:
        raise InvalidInput(
            f"input {spec.name!r} has another data type",
            received=DATATYPE.get(str(tensor.dtype), str(tensor.dtype)),
            expected=spec.datatype,
        )
    fits = tensor.ndim == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input {spec.name!r} has another shape",
            received=list(tensor.shape),
            expected=f"{list(spec.shape)} (-1: any size)",
        )


def elements(shape: Any, what: str) -> int:
    """The number of elements of a shape that somebody sent; raise InvalidInput for one that is none, before memory is taken."""
    if not isinstance(shape, list | tuple) or len(shape) > 32:
        raise InvalidInput(f"the shape of {what} is not a list of sizes", received=shape)
    count = 1
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidInput(f"the shape of {what} is not possible", received=shape, expected="sizes of 0 and more")
        count *= size
        if count > MAX_ELEMENTS:
            raise InvalidInput(
                f"the shape of {what} is too large", received=shape, expected=f"at most {MAX_ELEMENTS:,} elements"
            )
    return count
