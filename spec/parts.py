"""What FPGA parts hold, from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Capacity of one part, in the units of :data:`FAMILIES`."""

    family: str
    capacity: dict[str, int]


FAMILIES: dict[str, tuple[str, ...]] = {
    "xcup": ("lut", "ff", "dsp", "bram36", "uram"),
    "ecp5": ("lut", "ff", "dsp", "ebr"),
}
"""Kinds of resources. xcup: LUT6, flip-flops, DSP48E2, 36 Kbit block RAM (an 18 Kbit half counts
0.5), UltraRAM. ecp5: LUT4, flip-flops, MULT18X18D, 18 Kbit block RAM."""

PARTS: dict[str, Part] = {
    # DS891: Zynq UltraScale+ ZU9EG, the part of the ZCU102.
    "xczu9eg": Part(
        "xcup", {"lut": 274_080, "ff": 548_160, "dsp": 2_520, "bram36": 912, "uram": 0}
    ),
    # FPGA-DS-02012: the largest ECP5.
    "lfe5u-85": Part("ecp5", {"lut": 83_640, "ff": 83_640, "dsp": 156, "ebr": 208}),
}
"""By the beginning of the part number."""

REFERENCE_PARTS = {"xcup": "xczu9eg", "ecp5": "lfe5u-85"}
"""Whose shares are shown for a family when the target names no part of it."""


def find_part(device: str, family: str) -> str:
    """Name of the part in :data:`PARTS` for an ``ArchConfig.device``, or the family's reference."""
    for name, part in PARTS.items():
        if device.lower().startswith(name) and part.family == family:
            return name
    return REFERENCE_PARTS[family]
