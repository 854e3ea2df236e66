"""What FPGA parts hold, from their data sheets; a part that is not listed comes as a JSON file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from moesaic.spec.arch import BURST_BYTES
from moesaic.spec.errors import UserError
from moesaic.spec.registers import MAX_WEIGHT_PORTS

FAMILIES: dict[str, tuple[str, ...]] = {
    "xcup": ("lut", "ff", "dsp", "bram36", "uram"),
    "xc7": ("lut", "ff", "dsp", "bram36"),
    "ecp5": ("lut", "ff", "dsp", "ebr"),
}
"""Kinds of resources. xcup: LUT6, flip-flops, DSP48E2, 36 Kbit block RAM (an 18 Kbit half counts
0.5), UltraRAM. xc7: the same with DSP48E1. ecp5: LUT4, flip-flops, MULT18X18D, 18 Kbit RAM."""

FACTOR_BITS: dict[str, tuple[int, int]] = {"xcup": (27, 18), "xc7": (25, 18), "ecp5": (18, 18)}
"""Of a multiplier block the bits of its two factors, signed (UG579, UG479, FPGA-DS-02012)."""

ASSUMED_CLOCK_MHZ: dict[str, float] = {"xcup": 300.0, "xc7": 150.0, "ecp5": 75.0}
"""No place and route has run: these are assumptions, not results."""


@dataclass(frozen=True)
class Part:
    """Capacity of one part, in the units of :data:`FAMILIES`, and its way to external memory."""

    family: str
    capacity: dict[str, int]
    ports: int = 4
    """Memory ports for weights; where the memory controller is logic, those of the usual one."""
    port_bytes: int = 16
    """Data bytes per beat of one of them."""
    max_burst: int = 64
    """Longest burst that they take, or that a target should use, in beats."""
    secure: bool = False
    """Memory wants secure transfers: see ``ArchConfig.secure``."""


def _xilinx(
    family: str,
    lut: int,
    dsp: int,
    bram36: int,
    uram: int = 0,
    ports: int = 4,
    port_bytes: int = 16,
) -> Part:
    """Two flip-flops to a LUT, as in all of AMD's parts."""
    sizes = {"lut": lut, "ff": 2 * lut, "dsp": dsp, "bram36": bram36, "uram": uram}
    capacity = {kind: sizes[kind] for kind in FAMILIES[family]}
    return Part(family, capacity, ports, port_bytes)


def _zynq7(lut: int, dsp: int, bram36: int) -> Part:
    """Four S_AXI_HP ports of 64 bits each, which speak AXI3, to memory that is secure."""
    part = _xilinx("xc7", lut, dsp, bram36, ports=4, port_bytes=8)
    return dataclasses.replace(part, max_burst=16, secure=True)


def _ecp5(lut: int, dsp: int, ebr: int) -> Part:
    """One port of 64 bits: 16 bits of DDR3 at four times the clock of the logic."""
    return Part("ecp5", {"lut": lut, "ff": lut, "dsp": dsp, "ebr": ebr}, ports=1, port_bytes=8)


PARTS: dict[str, Part] = {
    # DS891: Zynq UltraScale+. Four S_AXI_HP ports of 128 bits each.
    "xczu3eg": _xilinx("xcup", 70_560, 360, 216),
    "xczu7ev": _xilinx("xcup", 230_400, 1_728, 312, 96),
    "xczu9eg": _xilinx("xcup", 274_080, 2_520, 912),
    # DS987: Kria K26, the module of the KV260.
    "xck26": _xilinx("xcup", 117_120, 1_248, 144, 64),
    # DS963: Alveo U280. Ports of HBM are AXI3 of 256 bits (PG276); a master of each has one.
    "xcu280": dataclasses.replace(
        _xilinx("xcup", 1_303_680, 9_024, 2_016, 960, ports=4, port_bytes=32), max_burst=16
    ),
    # DS190: Zynq-7000.
    "xc7z020": _zynq7(53_200, 220, 140),
    "xc7z045": _zynq7(218_600, 900, 545),
    # DS180: Artix-7; a memory controller in logic for 16 bits of DDR3.
    "xc7a100t": _xilinx("xc7", 63_400, 240, 135, ports=1, port_bytes=16),
    # FPGA-DS-02012: ECP5.
    "lfe5u-25": _ecp5(24_288, 28, 56),
    "lfe5u-45": _ecp5(43_848, 72, 108),
    "lfe5u-85": _ecp5(83_640, 156, 208),
}
"""By the beginning of the part number."""

ALIASES = {
    "ecp5-25k": "lfe5u-25",
    "ecp5-45k": "lfe5u-45",
    "ecp5-85k": "lfe5u-85",
    "kv260": "xck26",
    "pynq-z2": "xc7z020",
    "u280": "xcu280",
    "zynq-7020": "xc7z020",
    "zcu102": "xczu9eg",
    "zcu104": "xczu7ev",
}
"""Names that boards and shops use."""

REFERENCE_PARTS = {"xcup": "xczu9eg", "xc7": "xc7z020", "ecp5": "lfe5u-85"}
"""Whose shares are shown for a family when the target names no part of it."""

_FILE_BYTES = 1 << 16
_PORT_LIMITS = {"ports": (1, MAX_WEIGHT_PORTS), "port_bytes": (4, 64), "max_burst": (2, 256)}


def find_part(device: str, family: str) -> str:
    """Name of the part in :data:`PARTS` for an ``ArchConfig.device``, or the family's reference."""
    return known_part(device, family) or REFERENCE_PARTS[family]


def known_part(device: str, family: str | None = None) -> str | None:
    """Name of the part in :data:`PARTS` that a part number begins with, if there is one."""
    for name, part in PARTS.items():
        if device.lower().startswith(name) and family in (None, part.family):
            return name
    return None


def family_of(device: str) -> str:
    """Family of the part that a part number begins with; of parts not listed, UltraScale+."""
    part = known_part(device)
    return PARTS[part].family if part else "xcup"


def factor_bits(device: str) -> tuple[int, int]:
    """:data:`FACTOR_BITS` of the part that a part number begins with."""
    return FACTOR_BITS[family_of(device)]


def load_part(name_or_path: str) -> tuple[str, Part]:
    """A part by its number, by a name of :data:`ALIASES`, or from a JSON file.

    The file holds ``family`` (of :data:`FAMILIES`), a whole number for each of the family's kinds
    of resources (UltraRAM may be left out), and, where they differ from four ports of 16 bytes
    and bursts of 64 beats, ``ports``, ``port_bytes`` and ``max_burst``; ``secure`` is true where
    memory takes secure transfers only.

    Returns
    -------
    str, Part
        What reports call it, and the part.

    Raises
    ------
    UserError
        No such part is known, or the file holds something else.
    """
    lower = name_or_path.lower()
    if not lower.endswith(".json"):
        known = ALIASES.get(lower) or known_part(lower)
        if known is None:
            names = ", ".join(sorted([*PARTS, *ALIASES]))
            raise UserError(
                f"unknown part {name_or_path!r}; use one of {names}, or a .json file with its"
                " family and what it holds"
            )
        return known, PARTS[known]
    where = f"part file {name_or_path}"
    try:
        with Path(name_or_path).open("rb") as file:
            raw = file.read(_FILE_BYTES + 1)
        fields = json.loads(raw.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read: it is no JSON") from error
    return Path(name_or_path).stem, _part(fields, where)


def _part(fields: object, where: str) -> Part:
    """A part file's contents, checked."""
    family = fields.get("family") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(family, str) or family not in FAMILIES:
        names = ", ".join(FAMILIES)
        raise UserError(f"{where} must be an object whose family is one of {names}")
    kinds = FAMILIES[family]
    allowed = {"family", *kinds, *_PORT_LIMITS, "secure"}
    if unknown := sorted(set(fields) - allowed):
        raise UserError(f"{where} has no field {unknown[0]!r}; it has {', '.join(sorted(allowed))}")
    numbers = {"uram": 0, **{name: getattr(Part, name) for name in _PORT_LIMITS}, **fields}
    for name in (*kinds, *_PORT_LIMITS):
        value = numbers.get(name)
        if type(value) is not int or value < 0:
            raise UserError(f"{where} must give {name} as a whole number from 0 on")
    for name, (low, high) in _PORT_LIMITS.items():
        value = numbers[name]
        if not low <= value <= high or value & value - 1:
            raise UserError(f"{where} must give {name} as a power of two, {low} to {high}")
    longest = BURST_BYTES // numbers["port_bytes"]
    if numbers["max_burst"] > longest:
        raise UserError(
            f"{where} must give max_burst as at most {longest} with port_bytes"
            f" {numbers['port_bytes']}: AXI4 bursts have at most {BURST_BYTES} bytes"
        )
    secure = fields.get("secure", False)
    if not isinstance(secure, bool):
        raise UserError(f"{where} must give secure as true or false")
    own = {name: numbers[name] for name in _PORT_LIMITS}
    return Part(family, {kind: numbers[kind] for kind in kinds}, **own, secure=secure)
