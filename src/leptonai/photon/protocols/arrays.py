"""Bodies that are arrays: one `.npy` for a model with one input, an Arrow stream for named columns. Answered in kind, or as JSON."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import InvalidInput, shorten
from ..http import Answer
from ..runtimes.signature import DATATYPE, NUMPY, Signature, TensorSpec, elements

if TYPE_CHECKING:
    import pyarrow as pa

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
MAX_HEADER_BYTES = 4096


def read_npy(body: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """A view of the body. Raises InvalidInput for object arrays (they are pickles) and for a header that does not fit its bytes."""
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidInput("an .npy body is for a model with one input", received=names, fix="Send Arrow or JSON.")
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, EOFError, MemoryError) as error:
        raise InvalidInput("the body is not an .npy file", received=shorten(str(error), 80)) from None
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.names:
        raise InvalidInput("this .npy does not hold numbers, and objects are never unpickled", received=str(dtype))
    count = elements(list(shape), "the array")
    raw = memoryview(body)[file.tell() :]
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput("the .npy is not as long as its shape says", received=f"{len(raw):,} bytes")
    array = np.frombuffer(raw, dtype)
    array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    spec = signature.inputs[0]
    return {spec.name: _as(array, spec)}


def read_arrow(body: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """Columns by name; tensors are (nested) fixed-size lists. Raises InvalidInput for a stream that does not hold together."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        table = table.combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput("the body is not an Arrow stream", received=shorten(str(error), 80)) from None
    if table.num_rows == 0:
        raise InvalidInput("there are no rows", received=table.schema.names)
    specs = {spec.name: spec for spec in signature.inputs}
    return {
        name: _column(table.column(name), specs[name]) if name in specs else np.empty(0) for name in table.column_names
    }


def _column(column: pa.ChunkedArray, spec: TensorSpec) -> np.ndarray:
    import pyarrow as pa

    array, shape = column.combine_chunks(), [len(column)]
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    while pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = (
            set(array.value_lengths().to_pylist())
            if not pa.types.is_fixed_size_list(array.type)
            else {array.type.list_size}
        )
        if len(lengths) != 1 or None in lengths or array.null_count:
            raise InvalidInput(f"column {spec.name!r} has lists of different lengths, or nulls")
        shape.append(lengths.pop())
        array = array.flatten()
    if spec.datatype == "BYTES":
        found = np.empty(len(array), object)
        found[:] = [_bytes(value) for value in array.to_pylist()]
        return found.reshape(shape)
    if pa.types.is_boolean(array.type) or pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype != object and values.size == math.prod(shape):
            # A tensor given as one flat list is taken too.
            flat = len(shape) == 2 and len(spec.shape) > 2 and math.prod(spec.shape[1:]) == shape[1]
            return _as(values.reshape([shape[0], *spec.shape[1:]] if flat else shape), spec)
    raise InvalidInput(f"column {spec.name!r} does not hold {spec.datatype}", received=str(column.type))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def _as(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """In the type of the input, where that loses nothing but digits."""
    wanted = np.dtype(NUMPY[spec.datatype])
    if array.dtype == wanted or spec.datatype == "BYTES":
        return np.ascontiguousarray(array)
    if (array.dtype.kind == "f" and wanted.kind == "f") or np.can_cast(array.dtype, wanted, "same_kind"):
        return array.astype(wanted)
    raise InvalidInput(
        f"{spec.name!r} has another data type",
        received=DATATYPE.get(array.dtype.name, str(array.dtype)),
        expected=spec.datatype,
    )


def write_npy(outputs: dict[str, np.ndarray], accept: str) -> Answer:
    """One output as .npy: the only one, or the one that `accept: application/x-npy; output=NAME` names."""
    wanted = accept.partition("output=")[2].strip().strip('"') or (next(iter(outputs)) if len(outputs) == 1 else "")
    if wanted not in outputs or outputs[wanted].dtype == object:
        numbers = ", ".join(name for name, tensor in outputs.items() if tensor.dtype != object)
        raise InvalidInput(
            "an .npy answer holds one output",
            received=wanted,
            fix=f"Say which: accept: {NPY}; output=NAME ({numbers}).",
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(outputs[wanted]), allow_pickle=False)
    return Answer(file.getvalue(), content_type=NPY)


def write_arrow(outputs: dict[str, np.ndarray], request_id: str, model: str) -> Answer:
    """All outputs as one record batch; tensors as nested fixed-size lists. Request and model are in the schema's metadata."""
    import pyarrow as pa

    columns = {}
    for name, tensor in outputs.items():
        if tensor.dtype == object:
            flat: Any = pa.array(tensor.reshape(-1).tolist(), pa.binary())
        else:
            flat = pa.array(np.ascontiguousarray(tensor).reshape(-1))
        for size in reversed(tensor.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        columns[name] = flat
    batch = pa.RecordBatch.from_pydict(columns)
    schema = batch.schema.with_metadata({"request_id": request_id, "model": model})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return Answer(sink.getvalue().to_pybytes(), content_type=ARROW)
