"""The network kind `keras`: a Keras 3 architecture as JSON, its weights as named arrays. Nothing of a `.keras` or `.h5` file is read.

The architecture is checked (`keras_config.py`) and measured before memory is taken for it. Keras runs on torch here, so the
trainer can train such a model further like any other.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..base.errors import InvalidInput, LeptonError, Missing, Refused, Unavailable
from .keras_config import checked

ENDINGS = ("softmax", "logits", "sigmoid", "logit", "values")
"""What the last layer gives: probabilities, logits (n, classes), P(second class) or its logit (n, 1), or plain values."""
_ELEMENTS = 1 << 28


class KerasNetwork(nn.Module):
    """`forward(image=(n, H, W, C) uint8) -> (n, classes)` logits or log-probabilities, or (n,) values.

    `architecture`: the document of `keras_model.to_json()`; `value * scale + offset` is what the model's `fit` received.
    """

    def __init__(self, architecture: Mapping[str, Any], ends: str, scale: float, offset: float):
        super().__init__()
        if ends not in ENDINGS:
            raise InvalidInput(
                "the ending of a Keras network is unknown", received=ends, expected=f"one of {', '.join(ENDINGS)}"
            )
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in (scale, offset)):
            raise InvalidInput("scale and offset of a Keras network are finite numbers", received=(scale, offset))
        self.ends, self.scale, self.offset = ends, float(scale), float(offset)
        # In a list, so that torch's registry does not see the model: its weights are registered here once, under stable names.
        self._keras = [rebuild(architecture)]
        for name, weight in zip(weight_names(self.model), self.model.weights, strict=True):
            self.register_parameter(name, weight.value)

    @property
    def model(self) -> Any:
        return self._keras[0]

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        (value,) = inputs.values()
        return self._raw(self.model(self._prepare(value), training=self.training))

    def _prepare(self, value: torch.Tensor) -> torch.Tensor:
        """Inputs as `fit` received them: scaled, in the shape that the model declares."""
        value = value.to(torch.float32) * self.scale + self.offset
        shape = tuple(self.model.input_shape[1:])
        if value.ndim == 4 and len(shape) == 3 and tuple(value.shape[1:]) != shape and shape[0] == value.shape[3]:
            value = value.permute(0, 3, 1, 2)
        return value if None in shape else value.reshape(-1, *shape)

    def _raw(self, output: torch.Tensor) -> torch.Tensor:
        if self.ends == "softmax":
            return output.clamp_min(torch.finfo(torch.float32).tiny).log()
        if self.ends == "logits":
            return output
        output = output.reshape(-1)
        if self.ends == "sigmoid":
            output = torch.logit(output, eps=1e-7)
        return output if self.ends == "values" else torch.stack([torch.zeros_like(output), output], dim=1)


def load_keras() -> Any:
    """The module keras, on torch. Raises Unavailable if this process already uses Keras on another backend."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
    except ImportError as error:
        raise Missing("keras", "keras") from error
    if keras.backend.backend() != "torch":
        raise Unavailable(
            f"Keras runs on {keras.backend.backend()} in this process, and Lepton loads Keras models on torch",
            fix="Load the model in another process, or set KERAS_BACKEND=torch before Keras is imported.",
        )
    return keras


def rebuild(architecture: Mapping[str, Any]) -> Any:
    """The keras.Model of an architecture, with new weights. Refused if it is hostile or too large; InvalidInput if it is broken."""
    config = checked(architecture)
    keras = load_keras()
    from keras.src.models.functional import Functional

    cls = keras.Sequential if config["class_name"] == "Sequential" else Functional
    try:
        with keras.device("meta"):
            _check_size(cls.from_config(copy.deepcopy(config["config"])))
        model = cls.from_config(config["config"])
        fits = model.built and isinstance(model.input_shape, tuple) and isinstance(model.output_shape, tuple)
    except LeptonError:
        raise
    except Exception as error:  # Keras raises anything for a config that no Keras wrote
        raise InvalidInput(
            "Keras cannot rebuild this architecture", received=f"{type(error).__name__}: {error}"
        ) from error
    if not fits:
        raise InvalidInput(
            "the Keras model does not have one input of a known shape and one output",
            fix="Begin it with keras.Input(shape) and publish it again.",
        )
    return model


def _check_size(model: Any) -> None:
    outputs = [getattr(layer, "output", None) for layer in model.layers]
    largest = max(
        (math.prod(size or 1 for size in output.shape) for output in outputs if hasattr(output, "shape")), default=0
    )
    if max(largest, model.count_params()) > _ELEMENTS:
        raise Refused(
            "this Keras model is too large to load",
            received=f"{model.count_params():,} weights",
            expected=f"at most {_ELEMENTS:,}",
        )


def weight_names(model: Any) -> list[str]:
    """`003/dense/kernel`: place, layer and role. The front of a Keras path is left out: it changes when a model is rebuilt."""
    parts = [weight.path.replace(".", "_").split("/")[-2:] for weight in model.weights]
    return [f"{index:03d}/{'/'.join(part)}" for index, part in enumerate(parts)]


def architecture_of(model: Any) -> dict[str, Any]:
    """The checked architecture of a live model on any backend. Raises Refused for one with parts of the user's own."""
    try:
        return checked(json.loads(model.to_json()))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise Refused(
            "this Keras model has parts that cannot be written as data",
            received=f"{type(error).__name__}: {error}",
            expected="a Sequential or functional model made of built-in layers",
        ) from error


def ending_of(model: Any, from_logits: bool = False) -> str:
    """Which of ENDINGS the last layer is; `from_logits` is what its loss was told."""
    last = model.layers[-1] if type(model).__name__ == "Sequential" else model.output._keras_history.operation
    if hasattr(last, "layers"):
        return ending_of(last, from_logits)
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    width = model.output_shape[-1]
    if type(last).__name__ == "Softmax" or activation == "softmax":
        return "softmax"
    if activation == "sigmoid" and width == 1:
        return "sigmoid"
    if width == 1:
        return "logit" if from_logits else "values"
    return "logits" if activation == "linear" else "values"
