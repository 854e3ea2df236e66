"""Streams that do not fit the residual memory: blocks of rows take turns in it, and lie in scratch.

The memory has places for a few blocks. A block is loaded to its place, its rows are added to and
normalised for the layer behind, and they go back to scratch while the next block is worked on.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.steps import Step, reads_scratch, reads_stream, writes_scratch
from moesaic.compiler.schedule.steps import writes_stream as writes
from moesaic.spec import isa, layout, scratch
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import angle_words
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntAttention, IntDense, IntGraph
from moesaic.spec.lists import listed

PLACES = 2
"""Blocks that the residual memory holds at a time: one comes or goes while another is updated."""
PLACES_READ_AHEAD = 3
"""Where blocks are normalised when they are read: one is, while two others are updated."""
IDENTITY = {"plain": 1, "store": 1, "channels": 1, "multiplier": 1 << 15, "shift": 15}
"""Fields of a NORM that sends rows as they are (docs/numerics.md)."""


def resident_rows(graph: IntGraph, arch: ArchConfig) -> int:
    """Rows of the stream that the residual memory holds beside the angles of rotations."""
    free = arch.residual_words - sum(angle_words(graph, arch).values())
    return free // layout.words(graph.channels, arch.lanes)


def can_spill(joint: Joint) -> bool:
    """Whether a block of the stream can be worked on behind the other: experts and lists of tokens
    scatter, a norm replaces rows, heads between layers and of several tasks read."""
    graph = joint.graph
    return (
        len(joint.graphs) == 1
        and not listed(graph)
        and len(graph.heads) == 1
        and all(isinstance(layer, IntAttention | IntDense) for layer in graph.layers)
    )


def is_spilled(joint: Joint, arch: ArchConfig) -> bool:
    """Whether the stream is in scratch between its layers."""
    return joint.tokens > resident_rows(joint.graph, arch)


@dataclass(frozen=True)
class Spill:
    """Blocks of ``size`` rows, and the places of the residual memory that they share.

    Attributes
    ----------
    words
        Residual words of a row.
    first_byte
        Where scratch begins in the OUTPUT window.
    row_bytes
        Bytes of a row there.
    places
        How many blocks the memory holds.
    beside
        Rows of the memory behind them, for what else comes from scratch.
    """

    size: int
    words: int
    first_byte: int
    row_bytes: int
    places: int
    beside: range

    @staticmethod
    def of(
        joint: Joint,
        arch: ArchConfig,
        most: int,
        places: int,
        *,
        beside: bool = False,
    ) -> Spill:
        """Blocks of at most ``most`` rows, which share ``places`` places; with ``beside`` one
        place more is there for something else.

        Raises
        ------
        UserError
            The memory holds no row for each.
        """
        graph, needed = joint.graph, places + beside
        size = min(most, resident_rows(graph, arch) // needed)
        if not size:
            raise UserError(
                f"the model does not fit target {arch.name}: the residual scratchpad has"
                f" {arch.residual_bytes} bytes, less than {needed} rows of its residual stream: use"
                " a target with more residual_bytes"
            )
        words = layout.words(graph.channels, arch.lanes)
        first = scratch.first_byte(arch, joint.outputs)
        row_bytes = words * layout.load_bytes(arch, isa.Space.RESIDUAL)
        behind = range(places * size, resident_rows(graph, arch) if beside else places * size)
        return Spill(size, words, first, row_bytes, places, behind)

    def blocks(self, rows: range) -> list[range]:
        """The parts of ``rows`` in each block of the stream."""
        found = []
        for first in range(rows.start // self.size * self.size, rows.stop, self.size):
            part = range(max(first, rows.start), min(first + self.size, rows.stop))
            found.append(part)
        return found

    def place(self, rows: range) -> range:
        """Rows of the residual memory that ``rows`` of one block have while they are there."""
        block, within = divmod(rows.start, self.size)
        first = block % self.places * self.size + within
        return range(first, first + len(rows))

    def fetch(self, rows: range) -> Step:
        """LOAD of a block from scratch."""
        place = self.place(rows)
        fields = {
            "window": isa.Window.OUTPUT,
            "space": isa.Space.RESIDUAL,
            "offset": self.first_byte + rows.start * self.row_bytes,
            "words": len(rows) * self.words,
            "base": place.start * self.words,
        }
        return Step(isa.Opcode.LOAD, dict(fields), (reads_scratch(rows), writes(place)))

    def keep(self, rows: range) -> list[Step]:
        """STORE of a block to scratch, and the NORM that sends it."""
        place = self.place(rows)
        store = {
            "offset": self.first_byte + rows.start * self.row_bytes,
            "words": len(rows) * self.words,
            "single": 1,
        }
        norm = {
            "rows": len(rows),
            "words": self.words,
            "source_base": place.start * self.words,
            "source_stride": self.words,
            **IDENTITY,
        }
        return [
            Step(isa.Opcode.STORE, dict(store), (writes_scratch(rows),)),
            Step(isa.Opcode.NORM, dict(norm), (reads_stream(place),)),
        ]
