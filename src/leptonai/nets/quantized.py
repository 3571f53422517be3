"""Weights kept as integers: 8 bits with one scale per row, or 4 bits, two to a byte, with one scale per 32 numbers.

Symmetric, rounded to nearest. A quantized network computes in float32 with the rounded weights, so what is measured is what is served,
and its file is about a quarter or an eighth of the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import Corrupt

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

GROUP = 32
MOST = {8: 127, 4: 7}
# Smaller tensors (biases, norms, statistics) stay as they are: they are few, and every unit hangs on them.
SMALLEST = 256
SCALE = ".scale"


@dataclass(frozen=True)
class Quantized:
    """`table`: for the manifest, `{"bits", "shapes": {name: shape}}`. `tensors`: integers and scales by name."""

    table: dict[str, Any]
    tensors: dict[str, np.ndarray]


def rounded_names(state: Mapping[str, Tensor]) -> list[str]:
    return [n for n, t in state.items() if t.is_floating_point() and t.ndim >= 2 and t.numel() >= SMALLEST]


def _grouped(weight: Tensor, bits: int) -> Tensor:
    """(groups, numbers) that share a scale; 4 bits: rows padded to whole groups."""
    import torch

    rows = weight.reshape(weight.shape[0], -1).float()
    if bits == 8:
        return rows
    short = -rows.shape[1] % GROUP
    return torch.nn.functional.pad(rows, (0, short)).reshape(-1, GROUP)


def _integers(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    grouped = _grouped(weight, bits)
    scale = (grouped.abs().amax(1, keepdim=True) / MOST[bits]).clamp(min=1e-12)
    return (grouped / scale).round().clamp(-MOST[bits], MOST[bits]), scale


def _whole(integers: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight of `shape` again, float32."""
    rows = (integers.float() * scale).reshape(shape[0], -1)
    count = 1
    for size in shape[1:]:
        count *= size
    return rows[:, :count].reshape(shape).contiguous()


def rounded(weight: Tensor, bits: int) -> Tensor:
    """`weight` as it will be after quantization, in its own type."""
    integers, scale = _integers(weight, bits)
    return _whole(integers, scale, tuple(weight.shape)).to(weight.dtype)


def quantize(network: torch.nn.Module, bits: int) -> tuple[int, int]:
    """Round the network's matrices in place, and remember their integers for its file. Bytes of the weights before and after."""
    import numpy as np
    import torch

    state, tensors, shapes = network.state_dict(), {}, {}
    before = after = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    for name in rounded_names(state):
        integers, scale = _integers(state[name], bits)
        state[name].copy_(_whole(integers, scale, tuple(state[name].shape)))
        kept = integers.to(torch.int8).numpy()
        if bits == 4:
            kept = ((kept[:, ::2] + 8).astype(np.uint8) << 4) | (kept[:, 1::2] + 8).astype(np.uint8)
        tensors[name], tensors[name + SCALE] = kept, scale.squeeze(1).numpy()
        shapes[name] = list(state[name].shape)
        after += kept.nbytes + scale.numel() * 4 - state[name].numel() * state[name].element_size()
    network.quantized = Quantized({"bits": bits, "shapes": shapes}, tensors)  # type: ignore[assignment]
    return before, after


def restore_weights(tensors: Mapping[str, np.ndarray], table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state of a network from the tensors of its file. Raises Corrupt if they are not what `table` says."""
    import math

    import numpy as np

    try:
        bits, shapes = int(table["bits"]), {name: tuple(map(int, shape)) for name, shape in table["shapes"].items()}
        state = {n: t for n, t in tensors.items() if n not in shapes and n.removesuffix(SCALE) not in shapes}
        for name, shape in shapes.items():
            kept, scale = tensors[name], tensors[name + SCALE]
            rows, columns = shape[0], math.prod(shape[1:])
            wide = columns if bits == 8 else columns + -columns % GROUP
            groups = rows if bits == 8 else rows * wide // GROUP
            integers = np.empty((groups, wide if bits == 8 else GROUP), np.int8)
            if kept.dtype != (np.int8 if bits == 8 else np.uint8) or scale.shape != (groups,):
                raise ValueError(f"{name}: {kept.dtype} with {scale.shape} scales")
            if bits == 8:
                integers[:] = kept
            else:
                integers[:, ::2], integers[:, 1::2] = (kept >> 4).astype(np.int8) - 8, (kept & 15).astype(np.int8) - 8
            values = (integers.astype(np.float32) * scale[:, None]).reshape(rows, -1)[:, :columns]
            state[name] = np.ascontiguousarray(values.reshape(shape))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"the quantized weights cannot be read: {error}") from error
    return state
