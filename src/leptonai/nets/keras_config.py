"""What a Keras architecture may hold. It is data from a stranger, so `checked` reads it before Keras does.

Only the built-in classes listed here; no function, no lambda, no module of its own; bounded in depth and size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import Refused, shorten

# Absent on purpose: Lambda, TorchModuleWrapper, TFSMLayer, JaxLayer, FlaxLayer (they run code), the text and lookup layers (they
# read vocabulary files), and `Layer`, `Wrapper`, `Pipeline` (they hold anything).
_LAYERS = """Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D
    BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
    Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding
    Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity InputLayer LSTM
    LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention
    Multiply Normalization PReLU Permute RMSNormalization RNN RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation
    RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN
    SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D"""
LAYERS = frozenset(_LAYERS.split())
_INITIALIZERS = """Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros"""
_PARTS = {
    "keras.initializers": frozenset(_INITIALIZERS.split()),
    "keras.regularizers": frozenset({"L1", "L2", "L1L2", "OrthogonalRegularizer"}),
    "keras.constraints": frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}),
    "keras.layers": LAYERS,
    "keras": frozenset({"DTypePolicy", "Sequential", "Functional"}),
    "keras.models": frozenset({"Sequential", "Functional"}),
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
_DEPTH, _NODES, _INT = 50, 200_000, 1 << 31


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
        # One path for each of the two model classes, whichever Keras wrote.
        module = {"Sequential": "keras", "Functional": "keras.src.models.functional"}.get(name, module)
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
