"""Between a client's rows or tensors and what a runtime computes. A codec knows one model's schema; it holds no weights.

*Columns* are what runs: a dict of arrays (rows first), or lists of texts. A *part* is columns of rows that have one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..base.errors import InvalidInput, did_you_mean
from .runtimes.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

Columns = Mapping[str, Any]


@dataclass
class Part:
    """`indices`: which rows of the request these are; None: all of them, in order."""

    columns: Columns
    rows: int
    indices: list[int] | None = None


class Codec(Protocol):
    name: str
    signature: Signature
    request_schema: dict[str, Any]
    response_schema: dict[str, Any]
    described: dict[str, Any]

    def parse_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
        """JSON rows as columns; raise InvalidInput that names the row and the column."""

    def parse_tensors(self, tensors: Mapping[str, np.ndarray]) -> Part:
        """Tensors that a client sent; raise InvalidInput where they do not fit `signature`."""

    def decode(self, outputs: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        """One JSON prediction per row."""

    def tensors(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of `signature`."""

    def predictions_of(self, tensors: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        """What `tensors` gave, as JSON predictions."""

    def rows_of(self, columns: Columns) -> list[dict[str, Any]]:
        """Columns as the JSON rows that they could have come from: what is logged of a request in tensors."""


class TensorCodec:
    """A model that is known by its signature alone: a row is `{input: nested list}`, a prediction `{output: nested list}`."""

    def __init__(self, kind: str, signature: Signature, example: Mapping[str, np.ndarray] | None = None):
        self.name, self.signature = kind, signature
        self.request_schema = _object_schema(signature.inputs, signature.batched, strict=True)
        self.response_schema = _object_schema(signature.outputs, signature.batched, strict=False)
        if example is not None:
            self.request_schema["example"] = {
                name: _plain(tensor, signature.batched) for name, tensor in example.items()
            }
        self.described = {
            "task": kind,
            "inputs": [_described(spec, signature.batched) for spec in signature.inputs],
            "target": _described(signature.outputs[0], signature.batched),
            "classes": None,
        }

    def parse_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
        names = [spec.name for spec in self.signature.inputs]
        for number, row in enumerate(rows):
            if len(row) != len(names) or not all(name in row for name in names):
                _explain(number, row, names)
        if not self.signature.batched:
            made = [
                {s.name: _array(row[s.name], s, f"row {n}") for s in self.signature.inputs}
                for n, row in enumerate(rows)
            ]
            return [Part(columns, 1, [number]) for number, columns in enumerate(made)]
        if self.signature.fixed:
            return [Part({s.name: self._column(rows, s) for s in self.signature.inputs}, len(rows))]
        by_shape: dict[tuple, list[int]] = {}
        arrays = []
        for number, row in enumerate(rows):
            arrays.append({s.name: _array([row[s.name]], s, f"row {number}") for s in self.signature.inputs})
            by_shape.setdefault(tuple(array.shape for array in arrays[-1].values()), []).append(number)
        return [
            Part({name: _joined([arrays[i][name] for i in indices]) for name in names}, len(indices), indices)
            for indices in by_shape.values()
        ]

    def _column(self, rows: Sequence[Mapping[str, Any]], spec: TensorSpec) -> np.ndarray:
        try:
            return _array([row[spec.name] for row in rows], spec, "")
        except InvalidInput:
            for number, row in enumerate(rows):  # find the row that is wrong
                _array([row[spec.name]], spec, f"row {number}")
            raise

    def parse_tensors(self, tensors: Mapping[str, np.ndarray]) -> Part:
        return Part(tensors, self.signature.check(tensors))

    def decode(self, outputs: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        lists = {name: _plain_list(outputs[name]) for name in outputs}
        if not self.signature.batched:
            return [lists]
        return [{name: values[number] for name, values in lists.items()} for number in range(rows)]

    def tensors(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(outputs)

    def predictions_of(self, tensors: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        return self.decode(tensors, rows)

    def rows_of(self, columns: Columns) -> list[dict[str, Any]]:
        count = len(next(iter(columns.values()))) if self.signature.batched else 1
        return self.decode(columns, count)


def _array(values: Any, spec: TensorSpec, where: str) -> np.ndarray:
    """Nested lists as a tensor of `spec`; raise InvalidInput where they are ragged, out of range or of another type."""
    import numpy as np

    what = f"{where}, {spec.name!r}" if where else repr(spec.name)
    if spec.datatype == "BYTES":
        found = np.empty(len(values), object)
        found[:] = [_text(value, what) for value in values] if np.ndim(values) == 1 else values
        if len(spec.shape) != 1:
            raise InvalidInput(f"{what}: texts of this shape come as tensors only", received=list(spec.shape))
        return found
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise InvalidInput(f"{what} has lists of different lengths", expected=f"shape {list(spec.shape)[1:]}") from None
    if found.dtype == object and spec.datatype.startswith("FP"):  # null: a missing number
        found = _with_missing(values, what)
    wanted = np.dtype(spec.numpy)
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "b") != (spec.datatype == "BOOL"):
        raise InvalidInput(
            f"{what} does not hold {spec.datatype}",
            received=values,
            expected="numbers" if spec.datatype != "BOOL" else "true or false",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        converted = found.astype(wanted)
        if wanted.kind in "iu" and found.size and not (converted == found).all():
            raise InvalidInput(f"{what} has numbers that {spec.datatype} does not hold", received=values)
    fits = len(found.shape) == len(spec.shape) and all(
        s in (-1, n) for s, n in zip(spec.shape, found.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"{what} has another shape", received=list(found.shape[1:]), expected=f"{list(spec.shape)[1:]}"
        )
    return converted


def _with_missing(values: Any, what: str) -> np.ndarray:
    import numpy as np

    try:
        return np.array(values, np.float64)  # None becomes NaN; text does not become anything
    except (TypeError, ValueError):
        raise InvalidInput(f"{what} holds what is not a number", received=values, expected="numbers or null") from None


def _text(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(f"{what} is not text", received=value, expected="text")
    return value.encode("utf-8", "replace")


def _explain(number: int, row: Mapping[str, Any], names: list[str]) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        raise InvalidInput(f"row {number} has no {missing[0]!r}", received=list(row), expected=", ".join(names))
    unknown = next(name for name in row if name not in names)
    raise InvalidInput(
        f"row {number} has an input that the model does not take", received=unknown, fix=did_you_mean(unknown, names)
    )


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _plain_list(array: np.ndarray) -> Any:
    """An output as JSON: texts decoded, numbers that JSON cannot say as null."""
    import numpy as np

    if array.dtype == object:
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in array.tolist()]
    if array.dtype.kind == "f":
        if array.dtype != np.float64:
            # The shortest digits that mean the same float32; as a float64 each number would be twice as long.
            array = array.astype(np.float32).astype(str).astype(np.float64) if array.size <= 4096 else array
        if not np.isfinite(array).all():
            return np.where(np.isfinite(array), array.astype(object), None).tolist()
    return array.tolist()


def _plain(tensor: np.ndarray, batched: bool) -> Any:
    values = _plain_list(tensor)
    return values[0] if batched else values


def _described(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    """As a column of a dataset, for feedback."""
    shape = list(spec.shape[1:] if batched else spec.shape)
    kind = "text" if spec.datatype == "BYTES" else "boolean" if spec.datatype == "BOOL" else "number"
    return {"name": spec.name, "type": "tensor" if shape else kind, "shape": shape or None}


def _object_schema(specs: Sequence[TensorSpec], batched: bool, *, strict: bool) -> dict[str, Any]:
    properties = {spec.name: _schema(spec, spec.shape[1:] if batched else spec.shape, strict) for spec in specs}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schema(spec: TensorSpec, shape: Sequence[int], strict: bool) -> dict[str, Any]:
    if spec.datatype == "BYTES":
        kind: dict[str, Any] = {"type": "string"}
    elif spec.datatype == "BOOL":
        kind = {"type": "boolean"}
    elif spec.datatype.startswith("FP"):
        kind = {"type": ["number", "null"]}
    else:
        kind = {"type": "integer", **({"minimum": 0} if spec.datatype.startswith("U") else {})}
    for size in reversed(shape):
        kind = {
            "type": "array",
            "items": kind,
            **({"minItems": size, "maxItems": size} if size >= 0 and strict else {}),
        }
    if shape:
        kind["description"] = f"{spec.datatype}, shape {list(shape)}"
    return kind


class TaskCodec:
    """A model of the zoo: its task reads rows and says what predictions look like, in serving as in evaluation."""

    def __init__(self, task: Any):
        self.task, self.name = task, task.name
        self.request_schema, self.response_schema = task.request_schema, task.response_schema
        self.described = {
            "task": task.name,
            "inputs": [_column(column) for column in task.inputs],
            "target": _column(task.target),
            "classes": plain(task.classes),
        }
        self.signature = Signature.of(tuple(self._spec(column) for column in task.inputs), self._outputs())

    def _spec(self, column: Any) -> TensorSpec:
        shape = getattr(self.task, "shape", None) or column.shape
        if column.type == "image" and shape is not None:
            return TensorSpec(column.name, "UINT8", (-1, *shape))
        datatype = {"number": "FP64", "integer": "FP64", "boolean": "BOOL"}.get(column.type, "BYTES")
        return TensorSpec(column.name, datatype, (-1, *(column.shape or ())) if column.type == "tensor" else (-1,))

    def _outputs(self) -> tuple[TensorSpec, ...]:
        classes = self.described["classes"]
        if not classes:
            return (TensorSpec("value", "FP64", (-1,)),)
        texts = not all(isinstance(label, int) for label in classes)
        return TensorSpec("label", "BYTES" if texts else "INT64", (-1,)), TensorSpec(
            "scores", "FP32", (-1, len(classes))
        )

    def parse_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
        return [Part(self.task.columns_of(rows), len(rows))]

    def parse_tensors(self, tensors: Mapping[str, np.ndarray]) -> Part:
        """Whole numbers are taken for FP64, as JSON's are; pictures and tables of numbers go on as they are."""
        import numpy as np

        given = {
            spec.name: tensors[spec.name].astype(np.float64)
            for spec in self.signature.inputs
            if spec.datatype == "FP64" and spec.name in tensors and tensors[spec.name].dtype.kind in "iuf"
        }
        given = {**tensors, **given}
        rows = self.signature.check(given)
        plain_kinds = ("number", "integer", "image")
        if all(column.type in plain_kinds for column in self.task.inputs) and "BYTES" not in _datatypes(self.signature):
            return Part(given, rows)
        lists = {spec.name: _plain_list(given[spec.name]) for spec in self.signature.inputs}
        return Part(self.task.columns_of([{name: lists[name][n] for name in lists} for n in range(rows)]), rows)

    def decode(self, outputs: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        return self.task.decode(outputs["outputs"])

    def tensors(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import numpy as np

        found, classes = outputs["outputs"], self.described["classes"]
        if not classes:
            return {"value": np.ascontiguousarray(found, np.float64)}
        best = found.argmax(1)
        if self.signature.outputs[0].datatype == "INT64":
            return {"label": np.asarray(classes, np.int64)[best], "scores": found}
        labels = np.empty(len(best), object)
        labels[:] = [str(classes[number]).encode() for number in best]
        return {"label": labels, "scores": found}

    def predictions_of(self, tensors: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
        return self.task.decode(tensors["scores" if "scores" in tensors else "value"])

    def rows_of(self, columns: Columns) -> list[dict[str, Any]]:
        lists = {
            name: list(column) if isinstance(column, list) else _plain_list(column) for name, column in columns.items()
        }
        count = len(next(iter(lists.values())))
        return [{name: values[number] for name, values in lists.items()} for number in range(count)]


def _datatypes(signature: Signature) -> set[str]:
    return {spec.datatype for spec in signature.inputs}


def _column(column: Any) -> dict[str, Any]:
    return {"name": column.name, "type": column.type, "shape": list(column.shape) if column.shape else None}


def plain(values: Any) -> Any:
    """numpy scalars in a list as what JSON knows."""
    return None if values is None else [item.item() if hasattr(item, "item") else item for item in values]
