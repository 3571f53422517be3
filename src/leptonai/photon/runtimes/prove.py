"""Proof that a model treats rows alone: two rows computed together are the two computed each alone. Without it, no batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import Corrupt, LeptonError

if TYPE_CHECKING:
    from .runtime import Runtime
    from .signature import Signature


def example_of(signature: Signature, rows: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors that fit the signature: small numbers; a free size is 1 where it is not the rows'."""
    generator = np.random.default_rng(seed)
    made = {}
    for spec in signature.inputs:
        shape = [size if size >= 0 else 1 for size in spec.shape]
        if signature.batched:
            shape[0] = rows
        if spec.datatype == "BYTES":
            made[spec.name] = np.full(shape, b"text", object)
        elif spec.datatype.startswith("FP"):
            made[spec.name] = generator.uniform(0, 1, shape).astype(spec.numpy)
        else:
            made[spec.name] = generator.integers(0, 2, shape).astype(spec.numpy)
    return made


def proven(runtime: Runtime) -> Runtime:
    """The runtime, no longer `batched` if its rows are not independent. Raises Corrupt if it cannot compute at all."""
    if not runtime.signature.batched:
        return runtime
    one = dict(runtime.example or example_of(runtime.signature))
    other = example_of(runtime.signature, seed=1)
    other = {name: other[name] if other[name].shape == one[name].shape else one[name] for name in one}
    together = {name: np.concatenate([one[name], other[name]]) for name in one}
    try:
        alone = [_run(runtime, one), _run(runtime, other)]
    except LeptonError:
        raise
    except Exception as error:
        if runtime.example is None:
            return runtime  # made-up numbers are no proof against a model that wants its own kind of input
        raise Corrupt("the model cannot compute its own example", received=f"{type(error).__name__}: {error}") from None
    try:
        both = _run(runtime, together)
        same = all(_close(both[name], np.concatenate([a[name] for a in alone])) for name in both)
    except Exception:  # any failure of two rows where one passes is the answer: it does not take two
        same = False
    if not same:
        runtime.signature = replace(runtime.signature, batched=False)
    return runtime


def _run(runtime: Runtime, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in runtime.run(inputs).items()}


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    return (
        bool(np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)) if a.dtype.kind == "f" else bool((a == b).all())
    )
