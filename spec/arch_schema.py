"""The JSON schema of a target file, for editors and for whoever writes such files by program."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from moesaic.spec.arch import LIMITS, MULTIPLES, NAME, ArchConfig

_KINDS = {"str": "string", "bool": "boolean", "int": "integer"}


def arch_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) from the fields of :class:`ArchConfig` and its docstring.

    It has every rule that concerns one field. Those between fields only ``ArchConfig`` checks.
    """
    texts = _field_texts()
    properties: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(ArchConfig):
        about: dict[str, Any] = {"type": _KINDS[str(field.type)], "description": texts[field.name]}
        if field.name in LIMITS:
            low, high = LIMITS[field.name]
            powers = (1 << bits for bits in range(high.bit_length()))
            if field.name in MULTIPLES:
                about |= {"minimum": low, "maximum": high}
            else:
                about["enum"] = [power for power in powers if low <= power <= high]
        if field.name == "name":
            about["pattern"] = f"^{NAME.pattern}$"
        if field.default is not dataclasses.MISSING:
            about["default"] = field.default
        properties[field.name] = about
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Moesaic target",
        "description": "Sizes of one accelerator.",
        "type": "object",
        "properties": properties,
        "required": [name for name, about in properties.items() if "default" not in about],
        "additionalProperties": False,
    }


def _field_texts() -> dict[str, str]:
    """What the docstring says of every field."""
    lines = (inspect.getdoc(ArchConfig) or "").splitlines()
    texts: dict[str, str] = {}
    for line in lines[lines.index("Attributes") + 2 :]:
        if line[:1].strip():
            texts[name := line] = ""
        else:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return texts
