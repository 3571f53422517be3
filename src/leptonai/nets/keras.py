"""The network kind `keras`: a Keras 3 architecture as JSON, its weights as named arrays. Nothing of a `.keras` or `.h5` file is read.

A config is data from a stranger, so it is checked before Keras sees it: only the built-in classes listed here, no function, no
lambda, no module of its own, bounded in depth, size and memory. Keras runs on torch, so the trainer can train it further.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import InvalidInput, LeptonError, Missing, Refused, Unavailable, shorten

if TYPE_CHECKING:
    import torch

ENDINGS = ("softmax", "logits", "sigmoid", "logit", "values")
"""What the last layer gives: probabilities, logits (n, classes), P(second class) or its logit (n, 1), or plain values."""

# Absent on purpose: Lambda, TorchModuleWrapper, TFSMLayer, JaxLayer, FlaxLayer (they run code), the text and lookup layers (they
# read vocabulary files), and `Layer`, `Wrapper`, `Pipeline` (they hold anything).
LAYERS = frozenset(
    """Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D
    BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
    Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding
    Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity InputLayer LSTM
    LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention
    Multiply Normalization PReLU Permute RMSNormalization RNN RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation
    RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN
    SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D""".split()
)
_PARTS = {
    "keras.initializers": frozenset(
        """Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
        OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros""".split()
    ),
    "keras.regularizers": frozenset({"L1", "L2", "L1L2", "OrthogonalRegularizer"}),
    "keras.constraints": frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}),
    "keras.layers": LAYERS,
    "keras": frozenset({"DTypePolicy", "Sequential", "Functional", "Model"}),
    "keras.models": frozenset({"Sequential", "Functional", "Model"}),
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.src.models.sequential": frozenset({"Sequential"}),
}
_OBJECT_KEYS = {
    "module",
    "class_name",
    "config",
    "registered_name",
    "build_config",
    "name",
    "inbound_nodes",
    "shared_object_id",
}
_DEPTH, _NODES, _INT, _ELEMENTS = 50, 200_000, 1 << 31, 1 << 28


def checked(architecture: Any) -> dict[str, Any]:
    """A copy of a Keras `to_json` document without its compile part; Refused if anything in it is not a listed built-in."""
    if not isinstance(architecture, Mapping) or architecture.get("class_name") not in (
        "Sequential",
        "Functional",
        "Model",
    ):
        raise Refused(
            "this is not the architecture of a Keras model that Lepton can rebuild",
            received=architecture.get("class_name")
            if isinstance(architecture, Mapping)
            else type(architecture).__name__,
            expected="a Sequential or functional model made of built-in layers",
            fix="Build the model from keras.layers with keras.Sequential or keras.Model(inputs, outputs).",
        )
    top = {key: value for key, value in architecture.items() if key != "compile_config"}
    return _Checker().object(top, 0)


class _Checker:
    """Walks the document once; `seen` bounds its size whatever its shape."""

    def __init__(self) -> None:
        self.seen = 0

    def value(self, node: Any, depth: int) -> Any:
        self.seen += 1
        if depth > _DEPTH or self.seen > _NODES:
            raise Refused(
                "the Keras architecture is nested too deeply or is too large", expected=f"at most {_DEPTH} levels"
            )
        if isinstance(node, Mapping):
            if "class_name" in node or "module" in node:
                return self.object(node, depth)
            return {
                self.key(key): self.value(value, depth + 1) for key, value in node.items() if key != "compile_config"
            }
        if isinstance(node, (list, tuple)):
            return [self.value(item, depth + 1) for item in node]
        if isinstance(node, str) and len(node) > 512:
            raise Refused("a text in the Keras architecture is too long", received=shorten(node, 40))
        if isinstance(node, (int, float)) and not isinstance(node, bool) and not abs(node) < _INT:
            raise Refused("a number in the Keras architecture is out of range", received=node)
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise Refused("the Keras architecture holds something that is not JSON", received=type(node).__name__)

    def key(self, key: Any) -> str:
        if not isinstance(key, str) or len(key) > 128:
            raise Refused("a key in the Keras architecture is not a short text", received=shorten(key, 40))
        return key

    def object(self, node: Mapping[str, Any], depth: int) -> dict[str, Any]:
        name, module, registered = node.get("class_name"), node.get("module"), node.get("registered_name")
        if name == "__keras_tensor__":
            return {"class_name": name, "config": self.plain(node.get("config"), depth + 1)}
        known = isinstance(name, str) and isinstance(module, str) and name in _PARTS.get(module, ())
        if not known or registered not in (None, name):
            raise Refused(
                "this Keras model holds a part that may run code or that Lepton does not know",
                received=f"{module}.{name}" if registered in (None, name) else str(registered),
                expected="built-in classes of keras.layers other than Lambda and wrappers of foreign code",
                fix="Rebuild the model from built-in layers (Rescaling instead of Lambda) and publish it again.",
            )
        unknown = set(node) - _OBJECT_KEYS - {"compile_config"}
        if unknown or not isinstance(node.get("config"), Mapping):
            raise Refused(
                f"the description of {name} in the Keras architecture is malformed", received=sorted(map(str, unknown))
            )
        # A functional model writes its class's private path; `keras` resolves to the same class by its public name.
        module = "keras" if name in ("Sequential", "Functional", "Model") else module
        rest = {
            key: self.value(node[key], depth + 1)
            for key in _OBJECT_KEYS - {"class_name", "module", "registered_name"}
            if key in node
        }
        return {"class_name": name, "module": module, "registered_name": None, **rest}

    def plain(self, node: Any, depth: int) -> Any:
        """A value in which no object may hide."""
        if isinstance(node, Mapping) and ("class_name" in node or "module" in node):
            raise Refused("the Keras architecture hides a class where a shape belongs", received=node.get("class_name"))
        if isinstance(node, Mapping):
            return {self.key(key): self.plain(value, depth + 1) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            self.value([], depth)
            return [self.plain(item, depth + 1) for item in node]
        return self.value(node, depth)


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
    """The keras.Model of a checked architecture with new weights. Its size is known before memory is taken for it."""
    keras, config = load_keras(), checked(architecture)
    cls = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    if config["class_name"] != "Sequential":
        from keras.src.models.functional import Functional as cls  # noqa: N813
    try:
        with keras.device("meta"):
            _check_size(cls.from_config(copy.deepcopy(config["config"])))
        model = cls.from_config(config["config"])
    except LeptonError:
        raise
    except Exception as error:  # Keras raises anything for a config that no Keras wrote
        raise InvalidInput(
            "Keras cannot rebuild this architecture", received=f"{type(error).__name__}: {error}"
        ) from error
    if not model.built or not isinstance(model.input_shape, tuple):
        raise InvalidInput(
            "the Keras model does not say the shape of its one input",
            fix="Begin it with keras.Input(shape) and publish it again.",
        )
    return model


def _check_size(model: Any) -> None:
    shapes = [
        tuple(layer.output.shape)
        for layer in model.layers
        if not isinstance(getattr(layer, "output", None), (list, tuple, dict))
    ]
    largest = max((math.prod(size or 1 for size in shape) for shape in shapes), default=0)
    if max(largest, model.count_params()) > _ELEMENTS:
        raise Refused(
            "this Keras model is too large to load",
            received=f"{model.count_params():,} weights",
            expected=f"at most {_ELEMENTS:,}",
        )


def weight_names(model: Any) -> list[str]:
    """A name for each of `model.weights`: its path, numbered where a path occurs twice. No dots: torch forbids them."""
    paths = [weight.path.replace(".", "_") for weight in model.weights]
    if len(set(paths)) == len(paths):
        return paths
    return [f"{index:04d}/{path}" for index, path in enumerate(paths)]


def ending(model: Any, from_logits: bool = False) -> str:
    """Which of ENDINGS the last layer is; `from_logits` is what its loss was told."""
    last = model.layers[-1] if type(model).__name__ == "Sequential" else model.output._keras_history.operation
    if hasattr(last, "layers"):
        return ending(last, from_logits)
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    if type(last).__name__ == "Softmax" or activation == "softmax":
        return "softmax"
    width = model.output_shape[-1]
    if activation == "sigmoid" and width == 1:
        return "sigmoid"
    if width == 1:
        return "logit" if from_logits else "values"
    return "logits" if activation == "linear" else "values"


def make_network(config: Mapping[str, Any], model: Any = None) -> torch.nn.Module:
    """A torch module around a Keras model: `forward(**inputs) -> raw`, scaled as the script scaled what `fit` received.

    `config`: {"architecture": to_json document, "scale": float, "offset": float, "ends": one of ENDINGS}. `model`: use this one.
    """
    from .keras_module import KerasNetwork

    unknown = set(config) - {"architecture", "scale", "offset", "ends"}
    if unknown or config.get("ends") not in ENDINGS:
        raise InvalidInput(
            "this is not the config of a Keras network",
            received=sorted(config),
            expected=f"ends: one of {', '.join(ENDINGS)}",
        )
    scale, offset = config.get("scale", 1.0), config.get("offset", 0.0)
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in (scale, offset)):
        raise InvalidInput("scale and offset of a Keras network are finite numbers", received=(scale, offset))
    return KerasNetwork(
        model if model is not None else rebuild(config["architecture"]), float(scale), float(offset), config["ends"]
    )
