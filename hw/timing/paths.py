"""The longest paths of an analysis, with what they go through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moesaic.hw.timing.analysis import NONE, Analysis
from moesaic.hw.timing.netlist import Ints, Kind


@dataclass(frozen=True)
class Step:
    """A net on a path.

    Attributes
    ----------
    kind
        Of the cell that drives it.
    name
        The gateware's, or empty; with the block's path in front.
    block
        The driving cell's.
    arrival
        At its driver, ns.
    loads
        Routed pins on it.
    """

    kind: Kind
    name: str
    block: str
    arrival: float
    loads: int


@dataclass(frozen=True)
class TimingPath:
    """A register, what follows, and the register or memory at the end.

    Attributes
    ----------
    end
        What captures.
    end_name
        The gateware's name of it, or empty; with the block's path in front.
    end_block
        Where that is.
    steps
        From the first register's output to the net in front of the end.
    total
        Length, setup included, ns.
    alike
        How many ends there are between registers of the same names, this one included.
    """

    end: Kind
    end_name: str
    end_block: str
    steps: list[Step]
    total: float
    alike: int = 1

    @property
    def levels(self) -> int:
        """LUTs on the path."""
        return sum(step.kind == Kind.LUT for step in self.steps)

    @property
    def carries(self) -> int:
        """Carry chains on it, each once."""
        kinds = [step.kind for step in self.steps]
        return sum(
            kind == Kind.CARRY and before != Kind.CARRY
            for before, kind in zip([Kind.PORT, *kinds], kinds, strict=False)
        )


@dataclass(frozen=True)
class PathEnds:
    """Of every capture: where its longest path begins, and whether it stays in one block.

    Attributes
    ----------
    start
        The launch, or ``NONE`` where no path comes from a register.
    start_block, end_block
        Indices of blocks.
    within
        Whether all cells of the path are in ``end_block``.
    """

    start: Ints
    start_block: Ints
    end_block: Ints
    within: np.ndarray


def find_ends(analysis: Analysis) -> PathEnds:
    """Follow every longest path back to its beginning, all at once."""
    design = analysis.design
    net = design.captures.net.copy()
    within = np.ones(len(net), np.bool_)
    going = analysis.through[net] != NONE
    while going.any():
        at = np.flatnonzero(going)
        arc = analysis.through[net[at]]
        within[at] &= design.arc_block[arc] == design.capture_block[at]
        net[at] = design.arcs.source[arc]
        going[at] = analysis.through[net[at]] != NONE
    start = analysis.launch[net]
    block = np.where(start >= 0, design.launch_block[start], NONE)
    within &= block == design.capture_block
    return PathEnds(start, block.astype(np.int32), design.capture_block, within)


def trace(analysis: Analysis, capture: int, alike: int = 1) -> TimingPath:
    """The longest path to a capture."""
    design = analysis.design
    steps: list[Step] = []
    net = int(design.captures.net[capture])
    while net != NONE:
        arc = int(analysis.through[net])
        if arc != NONE:
            kind, block = design.arcs.cell[arc], design.arc_block[arc]
        else:
            begin = int(analysis.launch[net])
            kind, block = design.launches.cell[begin], design.launch_block[begin]
        steps.append(
            Step(
                Kind(int(kind)),
                design.names.get(net, ""),
                design.blocks[int(block)],
                float(analysis.arrival[net]),
                int(analysis.loads[net]),
            )
        )
        net = int(design.arcs.source[arc]) if arc != NONE else NONE
    return TimingPath(
        Kind(int(design.captures.cell[capture])),
        design.names.get(int(design.captures.register[capture]), ""),
        design.blocks[int(design.capture_block[capture])],
        steps[::-1],
        float(analysis.total[capture]),
        alike,
    )


def register_name(name: str) -> str:
    """A name without bit and element numbers: those of a bus or of equal lanes are alike."""
    return re.sub(r"\[\d+\]|\d+", "", name)


def worst(analysis: Analysis, ends: PathEnds, captures: Ints, most: int) -> Iterator[TimingPath]:
    """The longest of the paths to ``captures``, those from the same registers to a block once."""
    groups: dict[tuple[str, str], list[int]] = {}
    design = analysis.design
    order = captures[np.argsort(-analysis.total[captures], kind="stable")]
    for capture in order[: 50 * most].tolist():
        start = int(ends.start[capture])
        first = int(design.launches.net[start]) if start != NONE else NONE
        names = (design.names.get(first, ""), design.blocks[ends.end_block[capture]])
        groups.setdefault((register_name(names[0]), register_name(names[1])), []).append(capture)
    for members in list(groups.values())[:most]:
        yield trace(analysis, members[0], len(members))
