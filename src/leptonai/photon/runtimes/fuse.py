"""What an exported program computes with fewer steps and the same results: batch norm folded into the convolution before it,
a ReLU done in place (each only where nobody else reads the value between), and pictures kept channels-last, which oneDNN computes faster
(ResNet-20, one core, 32 pictures: 1.7 times as fast)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .program import Program, _Step

_CONVOLUTION = "torch.ops.aten.conv2d.default"
_BATCH_NORM = "torch.ops.aten.batch_norm.default"
_VIEW = "torch.ops.aten.view.default"
_RELU = "torch.ops.aten.relu.default"
_FRESH = {_CONVOLUTION, _BATCH_NORM, "torch.ops.aten.linear.default", "torch.ops.aten.add.Tensor"}
"""Their result is a new tensor, which no view shares."""


def fuse(program: Program) -> None:
    uses = Counter(slot for step in program.steps for slot in step.uses())
    uses.update(program.outputs)
    producers = {step.single: step for step in program.steps if step.single is not None}
    kept = []
    for step in program.steps:
        before = producers.get(step.values[0]) if step.values and type(step.values[0]).__name__ == "_Slot" else None
        alone = before is not None and uses[before.single] == 1
        if alone and step.target == _BATCH_NORM and before.target == _CONVOLUTION and _fold(program, before, step):
            producers[step.single] = before
            before.single, before.results = step.single, step.results
            continue
        if alone and step.target == _RELU and before.target in _FRESH:
            import torch

            step.function = torch.ops.aten.relu_.default
        kept.append(step)
    program.steps = kept
    _channels_last(program)


def _channels_last(program: Program) -> None:
    """Weights of 2-d convolutions in the order that makes their results channels-last; `view` becomes `reshape`, which takes any order."""
    import torch

    for step in program.steps:
        if step.target == _CONVOLUTION:
            weight = step.values[1]
            held = _constant(program, weight) if type(weight).__name__ == "_Slot" else weight
            if isinstance(held, torch.Tensor) and held.ndim == 4:
                step.values = [step.values[0], held.contiguous(memory_format=torch.channels_last), *step.values[2:]]
        elif step.target == _VIEW:
            step.function = torch.ops.aten.reshape.default


def _fold(program: Program, convolution: _Step, norm: _Step) -> bool:
    """Weights and bias of the convolution, so that it gives what the batch norm after it gave; False if these are not constants."""
    import torch

    if norm.keywords or convolution.keywords or len(norm.values) < 8 or len(convolution.values) < 2:
        return False
    weight, *rest = (_constant(program, value) for value in (convolution.values[1], *norm.values[1:5]))
    bias = _constant(program, convolution.values[2]) if len(convolution.values) > 2 else None
    training, epsilon = norm.values[5], norm.values[7]
    known = [tensor for tensor in (weight, *rest) if tensor is not None and tensor.dtype == torch.float32]
    if len(known) != 5 or training is not False or not isinstance(epsilon, float):
        return False
    if len(convolution.values) > 2 and convolution.values[2] is not None and bias is None:
        return False
    gamma, beta, mean, variance = (tensor.double() for tensor in rest)
    scale = gamma / (variance + epsilon).sqrt()
    folded = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    shift = beta + ((0.0 if bias is None else bias.double()) - mean) * scale
    values = list(convolution.values) + ([None] if len(convolution.values) == 2 else [])
    values[1], values[2] = folded.float(), shift.float()
    convolution.values = values
    return True


def _constant(program: Program, value: Any) -> Any:
    return program.start[value] if type(value).__name__ == "_Slot" else None
