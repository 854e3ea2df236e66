"""What quantisation did to a task, measured on the calibration samples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PointReport:
    """One quantised point."""

    bits: int
    maximum: float
    """Largest magnitude seen (over all tasks that share the point)."""
    clip: float
    """Magnitude at which it saturates."""
    scale: float
    """Real value of one step."""
    clipped: float
    """Share of values above ``clip``."""
    wide_channels: int = 0
    """Of 8-bit hidden rows, those with the largest magnitudes: they have 16 bits, and ``clip`` and
    ``clipped`` are of the others."""


@dataclass(frozen=True)
class QuantReport:
    """One task. Shares are 0 to 1."""

    task: str
    samples: int
    """Samples that SQNR and flips were measured on."""
    held_out: bool
    """Whether these are others than those of calibration."""
    sqnr_db: float
    """Of the integer graph's worst output against the float64 run."""
    outputs_db: dict[str, float]
    """Of each, by name."""
    routing_flips: dict[str, float]
    """MoE layer's name to the share of tokens whose set of chosen experts differs from float's."""
    points: dict[str, PointReport]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite SQNR (no error at all) becomes None."""
        values = asdict(self)
        if not math.isfinite(self.sqnr_db):
            values["sqnr_db"] = None
        values["outputs_db"] = {
            name: db if math.isfinite(db) else None for name, db in self.outputs_db.items()
        }
        return values
