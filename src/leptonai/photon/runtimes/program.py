"""The interpreter of an exported program: one list of steps over numbered values. Owns which operators may run.

Steps are bound once, when the program is loaded; a value is dropped after its last use.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, InvalidInput, Refused
from .signature import MAX_ELEMENTS

if TYPE_CHECKING:
    import torch

DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16", 28: "uint16",
}  # fmt: skip
"""Numbers of the export format's ScalarType."""
_MEMORY = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}

# Functions of their arguments alone: no random numbers, no files, no memory of other tensors.
_OPERATORS = """abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add addbmm addcdiv
    addcmul addmm alias all amax amin any arange argmax argmin argsort asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d
    baddbmm batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_to bucketize cat ceil celu channel_shuffle chunk
    clamp clamp_max clamp_min clone concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    convolution copysign cos cosh cumprod cumsum detach detach_ diag diagonal div dropout einsum elu embedding eq erf erfc exp exp2
    expand expand_as expm1 eye feature_dropout fill flatten flip floor floor_divide fmod frac full full_like gather ge gelu glu
    group_norm gru gt hardsigmoid hardswish hardtanh im2col index index_select instance_norm isfinite isinf isnan layer_norm le
    leaky_relu lerp lift_fresh_copy linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and logical_not
    logical_or logical_xor logit logsumexp lstm lt masked_fill masked_select matmul max max_pool1d max_pool2d
    max_pool2d_with_indices max_pool3d maximum mean min minimum mish mm movedim mul mv narrow native_batch_norm native_group_norm
    native_layer_norm ne neg new_empty new_full new_ones new_zeros nonzero norm numpy_T one_hot ones ones_like outer pad permute
    pixel_shuffle pixel_unshuffle pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d reshape resolve_conj resolve_neg rms_norm roll round rsqrt rsub
    scaled_dot_product_attention scatter scatter_add searchsorted select select_scatter selu sigmoid sign silu sin sinh slice
    slice_scatter softmax softplus softsign sort split split_with_sizes sqrt square squeeze stack std sub sum sym_numel sym_size t
    tan tanh threshold to tile topk transpose tril triu true_divide trunc type_as unbind unflatten unfold unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var view view_as where zeros
    zeros_like _adaptive_avg_pool2d _log_softmax _native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view"""
OPERATORS = frozenset(_OPERATORS.split())
IN_PLACE = frozenset(
    f"{name}_"
    for name in [
        "relu",
        "relu6",
        "add",
        "sub",
        "mul",
        "div",
        "clamp",
        "hardtanh",
        "hardswish",
        "silu",
        "leaky_relu",
        "elu",
        "sigmoid",
        "tanh",
    ]
)
"""Taken too, on values that the program made itself."""
_CHECKS = {
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_async",
}
_MAKERS = {
    "full",
    "zeros",
    "ones",
    "eye",
    "arange",
    "linspace",
    "repeat",
    "tile",
    "new_empty",
    "new_full",
    "new_ones",
    "new_zeros",
}
_MAKERS |= {
    "pad",
    "constant_pad_nd",
    "one_hot",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "repeat_interleave",
}
_SYMBOLIC = {
    f"_operator.{name}"
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "pow")
}


class _Slot(int):
    """The place of a value that is known when the program runs."""


class Program:
    """`run(inputs)` gives the outputs in order. Thread-safe: values live in the call."""

    def __init__(
        self,
        nodes: Sequence[Mapping[str, Any]],
        constants: Mapping[str, torch.Tensor],
        inputs: list[str],
        outputs: list[str],
    ):
        self.slots: dict[str, int] = {}
        self.made: set[str] = set()
        self.start: list[Any] = [None] * 0
        for name in inputs:
            self._slot(name)
        for name, tensor in constants.items():
            self.start[self._slot(name)] = tensor
        self.steps: list[_Step] = [step for node in nodes if (step := self._step(node)) is not None]
        missing = [name for name in outputs if name not in self.slots]
        if missing:
            raise Corrupt("an output of the exported program is never computed", received=missing)
        self.outputs = [self.slots[name] for name in outputs]
        self.inputs = len(inputs)
        from .fuse import fuse

        fuse(self)
        self._plan()

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = self.start.copy()
        values[: self.inputs] = inputs
        try:
            for step in self.steps:
                found = step.function(*step.positional(values), **step.named(values))
                if step.single is not None:
                    values[step.single] = found
                else:
                    for slot, value in zip(step.results, found, strict=True):
                        values[slot] = value
                for slot in step.dead:
                    values[slot] = None
        except (RuntimeError, IndexError, TypeError) as error:
            raise InvalidInput(
                "the exported program cannot compute this input", received=str(error).splitlines()[0]
            ) from None
        return [values[slot] for slot in self.outputs]

    def _plan(self) -> None:
        last: dict[int, _Step] = {}
        for step in self.steps:
            step.dead = ()
            for slot in step.uses():
                last[slot] = step
        for slot, step in last.items():
            if slot not in self.outputs and self.start[slot] is None:
                step.dead = (*step.dead, slot)

    def _slot(self, name: str) -> int:
        if not isinstance(name, str) or name in self.slots:
            raise Corrupt("two values of the exported program have one name", received=name)
        self.slots[name] = len(self.start)
        self.start.append(None)
        return self.slots[name]

    def _step(self, node: Mapping[str, Any]) -> _Step | None:
        function, schema = _function(node["target"])
        if function is None:
            return None
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for argument in node["inputs"]:
            value = self._value(argument["arg"])
            if argument.get("kind") == 2 or named:
                named[str(argument["name"])] = value
            else:
                positional.append(value)
        operation = node["target"].split(".")[3] if schema else ""
        if operation in IN_PLACE:
            self._check_own(node["inputs"][0]["arg"])
        if operation in _MAKERS:
            function = _bounded(function)
        results, single = self._results(node["outputs"])
        return _Step(node["target"], function, positional, named, results, single)

    def _check_own(self, argument: Mapping[str, Any]) -> None:
        if argument.get("as_tensor", {}).get("name") not in self.made:
            raise Refused("this exported program changes its weights or its inputs in place", received=argument)

    def _results(self, outputs: Sequence[Mapping[str, Any]]) -> tuple[list[int], int | None]:
        names: list[str] = []
        single = len(outputs) == 1
        for output in outputs:
            ((kind, value),) = output.items()
            if kind == "as_tensor":
                names.append(value["name"])
            elif kind == "as_tensors":
                single = False
                names += [one["name"] for one in value]
            elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
                names.append(value["as_name"])
            elif kind == "as_none":
                continue
            else:
                raise Corrupt("an operator of the exported program gives something unknown", received=kind)
        slots = [self._slot(name) for name in names]
        self.made.update(names)
        return slots, slots[0] if single and slots else None

    def _value(self, argument: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return self._known(value["name"])
            case "as_tensors":
                return [self._known(one["name"]) for one in value]
            case "as_optional_tensors":
                return [None if "as_none" in one else self._known(one["as_tensor"]["name"]) for one in value]
            case "as_int" | "as_float" | "as_bool" | "as_string":
                return value if isinstance(value, int | float | str) else _malformed(argument)
            case "as_ints" | "as_floats" | "as_bools" | "as_strings":
                return list(value)
            case "as_sym_int" | "as_sym_bool" | "as_sym_float":
                return self._symbol(value)
            case "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
                return [self._symbol(one) for one in value]
            case "as_scalar_type" | "as_memory_format" | "as_layout" | "as_device":
                return _torch_value(kind, value)
        raise Corrupt("an operator of the exported program takes something unknown", received=kind)

    def _symbol(self, value: Mapping[str, Any]) -> Any:
        if "as_name" in value:
            return self._known(value["as_name"])
        ((_, plain),) = value.items()
        return plain if isinstance(plain, int | float) else _malformed(value)

    def _known(self, name: str) -> _Slot:
        if name not in self.slots:
            raise Corrupt("the exported program uses a value before it is computed", received=name)
        return _Slot(self.slots[name])


class _Step:
    """One operator with its arguments. `single`: the slot of its only result."""

    __slots__ = ("dead", "function", "keywords", "results", "single", "target", "values")

    def __init__(
        self, target: str, function: Callable, values: list, keywords: dict, results: list[int], single: int | None
    ):
        self.target, self.function, self.values, self.keywords = target, function, values, keywords
        self.results, self.single = results, single
        self.dead: tuple[int, ...] = ()

    def positional(self, values: list[Any]) -> list[Any]:
        return [_filled(value, values) for value in self.values]

    def named(self, values: list[Any]) -> dict[str, Any]:
        return {name: _filled(value, values) for name, value in self.keywords.items()} if self.keywords else {}

    def uses(self) -> list[int]:
        found = []
        for value in (*self.values, *self.keywords.values()):
            found += [int(one) for one in (value if isinstance(value, list) else [value]) if type(one) is _Slot]
        return found


def _filled(value: Any, values: list[Any]) -> Any:
    kind = type(value)
    if kind is _Slot:
        return values[value]
    if kind is list:
        return [values[one] if type(one) is _Slot else one for one in value]
    return value


def _function(target: Any) -> tuple[Callable | None, bool]:
    """The operator of a target and whether it is one of torch; None for a check that only an exporter needs."""
    import torch

    if not isinstance(target, str):
        raise Corrupt("an operator of the exported program has no name", received=target)
    if target in _SYMBOLIC:
        return getattr(operator, target.removeprefix("_operator.")), False
    parts = target.split(".")
    if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"]:
        if parts[3] in _CHECKS:
            return None, False
        if parts[3] in OPERATORS or parts[3] in IN_PLACE:
            packet = getattr(torch.ops.aten, parts[3])
            if parts[4] in packet.overloads():
                return getattr(packet, parts[4]), True
    raise Refused(
        "this exported program uses an operator that is not served",
        received=target,
        expected="functional operators of aten",
        fix="Serve it as ONNX (torch.onnx.export), or ask for the operator.",
    )


def _bounded(function: Callable) -> Callable:
    """An operator that makes a tensor as large as its numbers say: they are looked at before memory is taken."""

    def checked(*values: Any, **named: Any) -> Any:
        for value in (*values, *named.values()):
            sizes = value if isinstance(value, list) else [value]
            whole = [abs(size) for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
            if math.prod(size or 1 for size in whole) > MAX_ELEMENTS:
                raise RuntimeError(f"a tensor would be too large ({whole})")
        return function(*values, **named)

    return checked


def _torch_value(kind: str, value: Any) -> Any:
    import torch

    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_layout":
        return torch.strided if value == 7 else _malformed(value)
    name = (DTYPES if kind == "as_scalar_type" else _MEMORY).get(value)
    return getattr(torch, name) if name else _malformed(value)


def _malformed(value: Any) -> Any:
    raise Corrupt("an argument in the exported program is malformed", received=value)
