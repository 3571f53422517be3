"""A Keras model as a torch module of the house: its weights under their Keras names, raw outputs as every network gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .keras import weight_names


class KerasNetwork(nn.Module):
    """`forward(image=(n, H, W, C) uint8) -> (n, classes)` logits or log-probabilities, or (n,) values.

    The Keras model is kept out of torch's own registry: its parameters are registered here once, under stable names.
    """

    def __init__(self, model: Any, scale: float, offset: float, ends: str):
        super().__init__()
        self.scale, self.offset, self.ends = scale, offset, ends
        self._keras = [model]
        for name, weight in zip(weight_names(model), model.weights, strict=True):
            self.register_parameter(name, weight.value)

    @property
    def model(self) -> Any:
        return self._keras[0]

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        (value,) = inputs.values()
        return self.raw(self.model(self.prepare(value), training=self.training))

    def prepare(self, value: torch.Tensor) -> torch.Tensor:
        """Inputs as `fit` received them: scaled, and in the shape that the model declares."""
        value = value.to(torch.float32) * self.scale + self.offset
        shape = self.model.input_shape[1:]
        if (
            len(shape) == 3
            and value.ndim == 4
            and tuple(value.shape[1:]) != tuple(shape)
            and shape[0] == value.shape[3]
        ):
            value = value.permute(0, 3, 1, 2)
        return value if None in shape else value.reshape(-1, *shape)

    def raw(self, output: torch.Tensor) -> torch.Tensor:
        if self.ends == "softmax":
            return output.clamp_min(torch.finfo(torch.float32).tiny).log()
        if self.ends == "logits":
            return output
        output = output.reshape(-1)
        if self.ends == "sigmoid":
            output = torch.logit(output, eps=1e-7)
        return output if self.ends == "values" else torch.stack([torch.zeros_like(output), output], dim=1)
