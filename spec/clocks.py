"""The clock that turns a target's cycles into time, and who says so.

``clocks.json`` holds what ``make timing TARGET=... TIMING_ARGS=--record`` found for presets: by a
model of delays (docs/timing.md), for nothing has been placed.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.parts import ASSUMED_CLOCK_MHZ, family_of
from moesaic.spec.presets import PRESETS

RECORDS = Path(__file__).with_name("clocks.json")
"""By preset: ``mhz``, the clock rounded down; ``worst_ns``, the longest path, ``path`` in words;
``budget_ns``, what it may not exceed; ``ends`` of paths, and ``late_ends`` of them later than
``allowed_ns``; ``verilog``, SHA-256 of what was measured; ``delays``, hash of the model's;
``made_with``, versions of the tools."""
GIVEN, RECORDED, ASSUMED = "as given", "by make timing", "assumed"
LIMITS_MHZ = 1.0, 2000.0


@dataclass(frozen=True)
class Clock:
    """A clock in MHz, and its source: :data:`GIVEN`, :data:`RECORDED` or :data:`ASSUMED`."""

    mhz: float
    source: str

    def __str__(self) -> str:
        return f"{self.mhz:g} MHz ({self.source})"

    def milliseconds(self, cycles: float) -> float:
        """Time of so many cycles."""
        return cycles / self.mhz / 1e3

    def gigabytes_per_second(self, size: float, cycles: float = 1) -> float:
        """Rate of ``size`` bytes in so many cycles, in 10**9 bytes."""
        return size / cycles * self.mhz / 1e3

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``clock_mhz`` and ``clock_source``."""
        return {"clock_mhz": self.mhz, "clock_source": self.source}


@functools.cache
def recorded_clocks() -> dict[str, dict[str, Any]]:
    """Records of :data:`RECORDS` by preset."""
    found: dict[str, dict[str, Any]] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return found


def find_clock(arch: ArchConfig, given_mhz: float | None = None) -> Clock:
    """The clock of a target: as given, else as recorded of a preset, else its family's.

    A target of a file is a preset if all of its fields are, its name and device too.

    Raises
    ------
    UserError
        ``given_mhz`` is out of bounds.
    """
    check_clock(given_mhz)
    record = recorded_clocks().get(arch.name)
    if given_mhz is None and record and PRESETS.get(arch.name) == arch:
        return Clock(record["mhz"], RECORDED)
    return family_clock(family_of(arch.device), given_mhz)


def family_clock(family: str, given_mhz: float | None = None) -> Clock:
    """The clock of targets that nobody has measured: as given, else assumed.

    Raises
    ------
    UserError
        ``given_mhz`` is out of bounds.
    """
    check_clock(given_mhz)
    if given_mhz is None:
        return Clock(ASSUMED_CLOCK_MHZ[family], ASSUMED)
    return Clock(given_mhz, GIVEN)


def check_clock(given_mhz: float | None) -> None:
    """Refuse a clock out of :data:`LIMITS_MHZ`.

    Raises
    ------
    UserError
        It is, or is no number.
    """
    low, high = LIMITS_MHZ
    if given_mhz is not None and not low <= given_mhz <= high:
        raise UserError(f"--clock takes {low:g} to {high:g} MHz, not {given_mhz:g}")
