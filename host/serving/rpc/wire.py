"""Looks at a message before protobuf does: a few bytes must not become many objects.

Protobuf makes an object of some hundred bytes of a field that takes two, so that 16 MiB could
become a GiB. Messages of this protocol have a dozen fields, and long ones are bytes or packed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from moesaic.host.serving.rpc.messages import CLASSES
from moesaic.host.serving.tensors import refuse

MOST_FIELDS = 4096
"""In a message, those of the messages in it included."""
_LONGEST_PACKED = 1024
"""Bytes of packed varints: shapes. Each byte may become a number of eight."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_BROKEN = "the message is not as protobuf writes it"


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise refuse(_BROKEN)


def _check_fields(data: bytes, descriptor: Any) -> None:
    left = MOST_FIELDS
    ranges = [(0, len(data), descriptor)]
    while ranges:
        at, end, message = ranges.pop()
        while at < end:
            left -= 1
            if left < 0:
                raise refuse(
                    f"the message has more than {MOST_FIELDS} fields; send numbers packed or raw"
                )
            tag, at = _varint(data, at, end)
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(data, at, end)
                continue
            if kind == _BYTES:
                size, at = _varint(data, at, end)
                field = message.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    ranges.append((at, at + size, field.message_type))
                elif field is not None and field.type == field.TYPE_INT64:
                    if size > _LONGEST_PACKED:
                        raise refuse(f"{field.name} has too many numbers")
            elif kind in _SIZES:
                size = _SIZES[kind]
            else:
                raise refuse(_BROKEN)
            at += size
            if at > end:
                raise refuse(_BROKEN)


def parse(name: str, data: bytes) -> Any:
    """The message of this name in the table, from its bytes.

    Raises
    ------
    RequestError
        400: it is none, or has more fields than any that is meant well.
    """
    kind = CLASSES[name]
    _check_fields(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise refuse(_BROKEN) from error
