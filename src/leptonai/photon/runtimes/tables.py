"""Models of tables: their columns as named inputs, or as one input `input` of shape (rows, features) where they have no names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .signature import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

INPUT = "input"


def feature_specs(
    names: Sequence[str] | None, count: int, sample: Sequence[Mapping[str, Any]] | None = None
) -> tuple[TensorSpec, ...]:
    """FP64 columns; those that the sample shows as text are BYTES."""
    if names is None:
        return (TensorSpec(INPUT, "FP64", (-1, count)),)
    texts = {name for row in sample or () for name, value in row.items() if isinstance(value, str)}
    return tuple(TensorSpec(str(name), "BYTES" if name in texts else "FP64", (-1,)) for name in names)


def table_of(signature: Signature, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The rows as one float64 table."""
    import numpy as np

    if len(signature.inputs) == 1 and signature.inputs[0].name in inputs and inputs[signature.inputs[0].name].ndim == 2:
        return inputs[signature.inputs[0].name]
    return np.stack([inputs[spec.name] for spec in signature.inputs], axis=1)
