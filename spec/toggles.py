"""How often registers change: counted on the simulated RTL of a small target, for all targets.

``toggles.json`` holds what ``python -m moesaic.sim.toggles BUNDLE ... --record`` found: of each
block of :data:`moesaic.spec.resource_model.FEATURES` toggles per register bit and cycle, in cycles
in which its unit works on data and in others.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesaic.spec.isa import Unit
from moesaic.spec.resource_model import FEATURES

RECORD = Path(__file__).with_name("toggles.json")
"""``blocks`` by name, see :class:`Rates`; ``fitted``, the target and task that they are from, and
``windows`` of ``window_cycles`` of its frame; ``checked`` by target and task, what they say of its
windows and what was counted there; ``made_with``, the tool's identity."""

_UNITS: dict[str, Unit] = {
    "core.stream": Unit.STREAM,
    "core.matrix": Unit.MATRIX,
    "core.vector": Unit.VECTOR,
    "core.router": Unit.ROUTER,
    "core.load": Unit.LOAD,
    "core.store": Unit.STORE,
    "core.scratchpad": Unit.MATRIX,  # it streams a word per cycle from there
}


ALIKE = {"core.vector.upper_lanes": "core.vector.lanes"}
"""Blocks that the target which is counted has not, and whose arithmetic they share."""


def block_of(module: str) -> str:
    """The block that the module of a path below the top is in; ``top`` for what is in none."""
    inside = [block for block in FEATURES if module.startswith(block)]
    return max(inside, key=len, default="top")


def unit_of(block: str) -> str:
    """Name of the unit that a block works for, as reports have it; "" for what serves all."""
    inside = [name for name in _UNITS if block.startswith(name)]
    return _UNITS[max(inside, key=len)].name.lower() if inside else ""


@dataclass(frozen=True)
class Rates:
    """Of one block: ``bits`` of registers where it was counted; toggles per bit and cycle where its
    unit is ``busy``, and where it is ``idle``. What serves all units has the same for both."""

    bits: int
    busy: float
    idle: float

    def toggles(self, busy_cycles: float, cycles: float) -> float:
        """Per register bit in so many cycles, in ``busy_cycles`` of which the unit was busy."""
        busy = min(busy_cycles, cycles)
        return self.busy * busy + self.idle * (cycles - busy)


@functools.cache
def recorded_toggles() -> dict[str, Any]:
    """What :data:`RECORD` holds."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


@functools.cache
def recorded_rates() -> dict[str, Rates]:
    """By block."""
    found = {block: Rates(**rates) for block, rates in recorded_toggles()["blocks"].items()}
    return {block: found[like] for block, like in ALIKE.items()} | found


def predicted_toggles(
    rates: Mapping[str, Rates],
    bits: Mapping[str, int],
    busy: Mapping[str, float],
    cycles: float,
) -> dict[str, float]:
    """Toggles by block of registers of so many ``bits``; ``busy`` cycles by unit."""
    return {
        block: rates[block].toggles(busy.get(unit_of(block), 0.0), cycles) * count
        for block, count in bits.items()
    }
