"""The messages of the protocol, from a table: no generated code that ties us to one protobuf.

Only what is served, and what clients send. What else the public definition has (contents of other
types than FP32, say) arrives as unknown fields, which protobuf skips.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_MAP, _ONE_OF, _REPEATED = "map", "oneof", "repeated"

TABLE: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("1 string name", "2 string version", "3 repeated string extensions"),
    "ModelReadyRequest": ("1 string name", "2 string version"),
    "ModelReadyResponse": ("1 bool ready",),
    "ModelMetadataRequest": ("1 string name", "2 string version"),
    "ModelMetadataResponse": (
        "1 string name",
        "2 repeated string versions",
        "3 string platform",
        "4 repeated ModelMetadataResponse.TensorMetadata inputs",
        "5 repeated ModelMetadataResponse.TensorMetadata outputs",
    ),
    "ModelMetadataResponse.TensorMetadata": (
        "1 string name",
        "2 string datatype",
        "3 repeated int64 shape",
    ),
    "InferParameter": (
        "1 oneof bool bool_param",
        "2 oneof int64 int64_param",
        "3 oneof string string_param",
        "4 oneof double double_param",
        "5 oneof uint64 uint64_param",
    ),
    "InferTensorContents": ("6 repeated float fp32_contents",),
    "ModelInferRequest": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 map InferParameter parameters",
        "5 repeated ModelInferRequest.InferInputTensor inputs",
        "6 repeated ModelInferRequest.InferRequestedOutputTensor outputs",
        "7 repeated bytes raw_input_contents",
    ),
    "ModelInferRequest.InferInputTensor": (
        "1 string name",
        "2 string datatype",
        "3 repeated int64 shape",
        "4 map InferParameter parameters",
        "5 InferTensorContents contents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": (
        "1 string name",
        "2 map InferParameter parameters",
    ),
    "ModelInferResponse": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 map InferParameter parameters",
        "5 repeated ModelInferResponse.InferOutputTensor outputs",
        "6 repeated bytes raw_output_contents",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "1 string name",
        "2 string datatype",
        "3 repeated int64 shape",
        "4 map InferParameter parameters",
        "5 InferTensorContents contents",
    ),
}
"""Fields by message: number, what kind of field, type, name. Types behind a dot are nested."""
METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
)
"""Each takes its ``Request`` and gives its ``Response``."""


def _add_field(message: Any, full_name: str, text: str) -> None:
    number, *kind, type_name, name = text.split()
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if kind in ([_REPEATED], [_MAP]) else field.LABEL_OPTIONAL
    if kind == [_ONE_OF]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind == [_MAP]:
        # A map is a list of entries, which protobuf knows by their name.
        entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, "", "1 string key")
        _add_field(entry, "", f"2 {type_name} value")
        type_name = f"{full_name}.{entry_name}"
    if type_name[0].isupper():
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{type_name}"
    else:
        field.type = getattr(field, f"TYPE_{type_name.upper()}")


def _classes() -> dict[str, Any]:
    # In a pool of its own: a client in the same process brings the public file.
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name="moesaic/inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for full_name in sorted(TABLE, key=lambda name: name.count(".")):
        outer, _, name = full_name.rpartition(".")
        made[full_name] = (made[outer].nested_type if outer else file.message_type).add(name=name)
        for text in TABLE[full_name]:
            _add_field(made[full_name], full_name, text)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in TABLE
    }


CLASSES = _classes()
"""Message classes by the names of the table."""
