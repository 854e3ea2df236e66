"""What nextpnr's report says of a routed unit: its clock, its longest path, what it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from moesaic.hw.timing.nextpnr import RoutingError
from moesaic.hw.timing.wrapper import INSIDE

_CELLS = r"LUT4|CCU2C|PFUMX|L6MUX21|TRELLIS_FF|TRELLIS_DPR16X4|DP16KD|PDPW16KD|MULT18X18D|DO[AB]\d+"
_MADE = re.compile(rf"_(?:{_CELLS})(?![A-Za-z0-9])")
"""In a cell's name, where what yosys made of the gateware's name begins: it calls a cell by the
signal that it drives or takes, then the types of the cells in between and their pins."""
_KINDS = {
    "lut4": "TRELLIS_COMB",
    "ff": "TRELLIS_FF",
    "multipliers": "MULT18X18D",
    "block_rams": "DP16KD",
}


@dataclass(frozen=True)
class Step:
    """A part of a path: ``kind`` as nextpnr calls it, the gateware's name of its end, its ns."""

    kind: str
    name: str
    ns: float


@dataclass(frozen=True)
class Routed:
    """A routed unit.

    Attributes
    ----------
    mhz
        Highest clock between its registers.
    path
        Its longest path, from the clock of the first register to the setup of the last.
    used
        LUT4 (a carry takes two, 16x4 bits of distributed memory four), ff, multipliers and block
        RAMs, with those of the wrapper.
    """

    mhz: float
    path: list[Step]
    used: dict[str, int]

    @property
    def ns(self) -> float:
        """Length of the longest path."""
        return sum(step.ns for step in self.path)

    @property
    def levels(self) -> int:
        """Cells between the two registers."""
        return sum(step.kind == "logic" for step in self.path)

    @property
    def outline(self) -> str:
        """The longest path by the gateware's names, in order."""
        names: list[str] = []
        for step in self.path:
            if step.name and (not names or names[-1] != step.name):
                names.append(step.name)
        return " -> ".join(names)


def read_routed(report: dict[str, Any]) -> Routed:
    """Read the report of a unit that has one clock.

    Raises
    ------
    RoutingError
        There is not one clock, or no path of it, or a resource is not in the report.
    """
    clocks = report.get("fmax", {})
    if len(clocks) != 1:
        raise RoutingError(f"nextpnr's report must have one clock, not {sorted(clocks)}")
    ((clock, found),) = clocks.items()
    edge = f"posedge {clock}"
    paths = [
        path
        for path in report.get("critical_paths", [])
        if path.get("from") == edge and path.get("to") == edge
    ]
    if not paths:
        raise RoutingError(f"nextpnr's report must have a path of clock {clock}")
    used = report.get("utilization", {})
    if missing := [kind for kind in _KINDS.values() if kind not in used]:
        raise RoutingError(f"nextpnr's report must say how many {missing[0]} are used")
    longest = max(([_step(step) for step in path["path"]] for path in paths), key=_length)
    return Routed(
        float(found["achieved"]),
        longest,
        {name: int(used[kind]["used"]) for name, kind in _KINDS.items()},
    )


def _length(steps: list[Step]) -> float:
    return sum(step.ns for step in steps)


def _step(step: dict[str, Any]) -> Step:
    return Step(step["type"], signal_name(step["to"]["cell"]), float(step["delay"]))


def signal_name(cell: str) -> str:
    """The gateware's name in a cell's name: of a nameless signal ``module.*``, or nothing."""
    name = _MADE.split(cell.removeprefix(f"{INSIDE}."), maxsplit=1)[0]
    name, _, packed = name.partition("$")  # nextpnr's pieces of a cell, and nameless signals
    if packed and name.endswith("."):
        return f"{name}*"
    return name
