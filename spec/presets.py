"""Targets by name: the presets that come along, and files that hold others."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

_FILE_BYTES = 1 << 16
"""The largest target file; the fields take less than a thousand bytes."""

PRESETS: dict[str, ArchConfig] = {
    config.name: config
    for config in (
        ArchConfig(
            name="nano",
            depth=16,
            width=16,
            lanes=16,
            accumulator_rows=512,
            activation_bytes=64 << 10,
            residual_bytes=16 << 10,
            weight_ports=2,
            ring_read_bytes=32,
            ring_bytes=64 << 10,
            max_tokens=128,
            max_experts=16,
            device="tests and small parts",
        ),
        ArchConfig(
            name="zcu102-lite",
            depth=32,
            width=32,
            lanes=32,
            accumulator_rows=1024,
            activation_bytes=256 << 10,
            residual_bytes=64 << 10,
            weight_ports=4,
            ring_read_bytes=256,
            ring_bytes=512 << 10,
            max_tokens=256,
            max_experts=16,
            device="xczu9eg-ffvb1156-2-e",
        ),
        ArchConfig(
            name="zcu102",
            depth=64,
            width=64,
            packed=True,
            lanes=32,
            chunk_pairs=True,
            accumulator_rows=512,
            activation_bytes=256 << 10,
            residual_bytes=128 << 10,
            weight_ports=4,
            ring_read_bytes=512,
            ring_bytes=2 << 20,
            four_bit_weights=True,
            output_ports=4,
            max_tokens=512,
            max_experts=16,
            device="xczu9eg-ffvb1156-2-e",
        ),
        ArchConfig(
            name="zcu102-base",
            depth=64,
            width=64,
            packed=True,
            lanes=32,
            accumulator_rows=512,
            activation_bytes=1 << 20,
            residual_bytes=512 << 10,
            weight_ports=4,
            ring_read_bytes=256,
            ring_bytes=512 << 10,
            output_ports=4,
            max_tokens=512,
            max_experts=16,
            device="xczu9eg-ffvb1156-2-e",
        ),
        ArchConfig(
            name="zcu104",
            depth=32,
            width=64,
            packed=True,
            lanes=32,
            accumulator_rows=512,
            activation_bytes=256 << 10,
            residual_bytes=128 << 10,
            weight_ports=4,
            ring_read_bytes=256,
            ring_bytes=1 << 20,
            four_bit_weights=True,
            ultra_ring=True,
            output_ports=4,
            max_tokens=512,
            max_experts=16,
            device="xczu7ev-ffvc1156-2-e",
        ),
        ArchConfig(
            name="u280",
            depth=64,
            width=128,
            packed=True,
            lanes=64,
            accumulator_rows=512,
            activation_bytes=1 << 20,
            residual_bytes=512 << 10,
            weight_ports=4,
            weight_port_bytes=32,
            ring_read_bytes=512,
            ring_bytes=2 << 20,
            four_bit_weights=True,
            ultra_ring=True,
            ultra_activations=True,
            data_port_bytes=32,
            output_ports=4,
            max_tokens=512,
            max_experts=16,
            max_burst=16,
            device="xcu280-fsvh2892-2L-e",
        ),
        ArchConfig(
            name="kv260",
            depth=16,
            width=32,
            lanes=16,
            accumulator_rows=256,
            activation_bytes=64 << 10,
            residual_bytes=16 << 10,
            weight_ports=2,
            ring_read_bytes=128,
            ring_bytes=128 << 10,
            output_ports=2,
            max_tokens=128,
            max_experts=16,
            device="xck26-sfvc784-2LV-c",
        ),
        ArchConfig(
            name="pynq-z2",
            depth=8,
            width=16,
            lanes=4,
            accumulator_rows=256,
            activation_bytes=64 << 10,
            residual_bytes=16 << 10,
            weight_ports=2,
            weight_port_bytes=8,
            ring_read_bytes=32,
            ring_bytes=128 << 10,
            data_port_bytes=8,
            max_tokens=128,
            max_experts=16,
            max_burst=16,
            secure=True,
            device="xc7z020clg400-1",
        ),
        ArchConfig(
            name="ecp5-85",
            depth=8,
            width=8,
            lanes=4,
            accumulator_rows=256,
            activation_bytes=64 << 10,
            residual_bytes=16 << 10,
            weight_ports=1,
            weight_port_bytes=8,
            ring_read_bytes=16,
            ring_bytes=64 << 10,
            data_port_bytes=8,
            max_tokens=128,
            max_experts=16,
            device="LFE5U-85F-6BG756C",
        ),
    )
}


def presets_with(flag: str) -> str:
    """Names of the presets that have a flag, for a sentence."""
    *most, last = (name for name, arch in PRESETS.items() if getattr(arch, flag))
    return f"{', '.join(most)} or {last}" if most else last


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of a target file; of two equal names one would be ignored."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {reprlib.repr(twice)} stands there twice")
    return fields


def load_arch(name_or_path: str) -> ArchConfig:
    """Return a preset by name or an ArchConfig from a JSON file.

    Raises
    ------
    UserError
        The name is no preset and no readable JSON file, or a field breaks its rule.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    if not name_or_path.endswith(".json"):
        presets = ", ".join(sorted(PRESETS))
        raise UserError(
            f"unknown target {name_or_path!r}; use one of {presets}, or a .json file with"
            " the fields of ArchConfig"
        )
    where = f"target file {name_or_path}"
    try:
        path = Path(name_or_path)
        if path.exists() and not path.is_file():
            raise UserError(f"{where} cannot be read: it is no plain file")
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES + 1)
        if len(raw) > _FILE_BYTES:
            raise UserError(f"{where} cannot be read: it has more than {_FILE_BYTES} bytes")
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where} cannot be read: its brackets are nested too deeply") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where} must hold a JSON object")
    try:
        return ArchConfig.from_dict(fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
