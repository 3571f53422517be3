"""Mixed precision: `fp32`, `bf16`, `fp16`. Owns autocast round a model's forward, and the scaling of fp16 gradients."""

from __future__ import annotations

import types
from typing import Any

import torch

from ..base.errors import InvalidInput, did_you_mean

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> str:
    if precision not in DTYPES:
        raise InvalidInput("there is no such precision", received=precision, fix=did_you_mean(str(precision), DTYPES))
    return precision


def autocast_forward(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Run `model.forward` under autocast and return its outputs in float32, where losses belong.

    It is a bound method on the instance, so a deep copy of the model runs its own weights.
    """

    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type(self), dtype):
            outputs = type(self).forward(self, *args, **kwargs)
        return in_float32(outputs)

    model.forward = types.MethodType(forward, model)


def plain_forward(model: torch.nn.Module) -> None:
    """Undo `autocast_forward`: a published model runs as it is written."""
    model.__dict__.pop("forward", None)


def device_type(model: torch.nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else parameter.device.type


def in_float32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    if isinstance(outputs, dict):
        return {name: in_float32(value) for name, value in outputs.items()}
    if type(outputs) in (tuple, list):
        return type(outputs)(in_float32(value) for value in outputs)
    return outputs
