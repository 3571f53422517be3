"""The messages of the Open Inference Protocol's gRPC service, built from one table: name and number of every field as the protocol has them."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

# message: {field: (number, type)}. `*` repeats; a name with a capital is a message; `{}` is a map from text to it.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": (1, "string"), "version": (2, "string"), "extensions": (3, "*string")},
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "TensorMetadata": {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "*int64")},
    "ModelMetadataResponse": {
        "name": (1, "string"), "versions": (2, "*string"), "platform": (3, "string"), "inputs": (4, "*TensorMetadata"),
        "outputs": (5, "*TensorMetadata"),
    },
    "InferParameter": {
        "bool_param": (1, "bool"), "int64_param": (2, "int64"), "string_param": (3, "string"), "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "*bool"), "int_contents": (2, "*int32"), "int64_contents": (3, "*int64"),
        "uint_contents": (4, "*uint32"), "uint64_contents": (5, "*uint64"), "fp32_contents": (6, "*float"),
        "fp64_contents": (7, "*double"), "bytes_contents": (8, "*bytes"),
    },
    "InferInputTensor": {
        "name": (1, "string"), "datatype": (2, "string"), "shape": (3, "*int64"), "parameters": (4, "{}InferParameter"),
        "contents": (5, "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, "{}InferParameter")},
    "ModelInferRequest": {
        "model_name": (1, "string"), "model_version": (2, "string"), "id": (3, "string"), "parameters": (4, "{}InferParameter"),
        "inputs": (5, "*InferInputTensor"), "outputs": (6, "*InferRequestedOutputTensor"), "raw_input_contents": (7, "*bytes"),
    },
    "InferOutputTensor": {
        "name": (1, "string"), "datatype": (2, "string"), "shape": (3, "*int64"), "parameters": (4, "{}InferParameter"),
        "contents": (5, "InferTensorContents"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"), "model_version": (2, "string"), "id": (3, "string"), "parameters": (4, "{}InferParameter"),
        "outputs": (5, "*InferOutputTensor"), "raw_output_contents": (6, "*bytes"),
    },
}  # fmt: skip
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


@cache
def messages() -> SimpleNamespace:
    """The message classes by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="lepton/open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            plain = kind.removeprefix("*").removeprefix("{}")
            one = message.field.add(
                name=field, number=number, label=kinds.LABEL_REPEATED if kind != plain else kinds.LABEL_OPTIONAL
            )
            if kind.startswith("{}"):
                entry = message.nested_type.add(name="".join(part.capitalize() for part in field.split("_")) + "Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
                value = entry.field.add(name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL)
                value.type_name = f".{PACKAGE}.{plain}"
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{name}.{entry.name}"
            elif plain[0].isupper():
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
            else:
                one.type = getattr(kinds, f"TYPE_{plain.upper()}")
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
            for one in message.field:
                one.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }
    return SimpleNamespace(**found)
