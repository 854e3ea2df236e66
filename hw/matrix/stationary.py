"""The stationary operand: one tile in use, the next one being loaded behind it."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from moesaic.spec.arch import ArchConfig


def load_layout(arch: ArchConfig) -> data.StructLayout:
    """One write into the shadow tile.

    ``ring`` selects the source. With it, ``beat`` names the group of ``ring_read_bytes / width``
    tile rows that ``ring_word`` holds. Without it, ``operand_word`` goes to column ``index``
    (``column``), or to part ``part`` of row ``index``.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "ring": 1,
            "column": 1,
            "index": range(arch.width),
            "part": range(max(arch.width // arch.depth, 2)),
            "beat": range(max(arch.tile_ring_words, 2)),
        }
    )


class StationaryStore(wiring.Component):
    """``depth`` rows of ``width`` int8, twice: a shadow that is loaded and an active tile.

    ``swap`` in cycle s makes the shadow the active tile from cycle s + 1 on. Writes presented up
    to cycle s - 2 belong to that tile, writes from cycle s - 1 on to the one after it: a tile may
    be requested for use in the cycle of its last write, and the next one loaded right behind.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    load, ring_word, operand_word
        The write: see :func:`load_layout`.
    swap
        Make the shadow tile the active one.
    active
        Row d, part p (``depth`` columns) as member ``active[d * parts + p]``.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self.parts = arch.width // arch.depth
        super().__init__(
            {
                "load": In(load_layout(arch)),
                "ring_word": In(8 * arch.ring_read_bytes),
                "operand_word": In(8 * arch.depth),
                "swap": In(1),
            }
        )
        self.active = [
            Signal(8 * arch.depth, name=f"active_{d}_{p}", reset_less=True)
            for d in range(arch.depth)
            for p in range(self.parts)
        ]

    def weight(self, row: int, column: int) -> Value:
        """The active int8 weight, signed."""
        part, byte = divmod(column, self.arch.depth)
        return self.active[row * self.parts + part][8 * byte : 8 * byte + 8].as_signed()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth, width, parts = self.arch.depth, self.arch.width, self.parts
        slices = self.arch.ring_read_bytes // width
        part_bits = 8 * depth
        load = self.load

        # One register stage spreads the write over the array.
        row_bus = Signal(8 * self.arch.ring_read_bytes, reset_less=True)
        column_bus = Signal(part_bits, reset_less=True)
        row_enable, part_enable = Signal(depth), Signal(parts)
        column_enable = Signal(width)
        column_load = Signal()
        m.d.sync += [
            column_load.eq(load.valid & ~load.ring & load.column),
            row_enable.eq(0),
            column_enable.eq(0),
        ]
        with m.If(load.valid):
            m.d.sync += [
                row_bus.eq(
                    Mux(load.ring, self.ring_word, self.operand_word.replicate(slices * parts))
                ),
                column_bus.eq(self.operand_word),
                part_enable.eq(Mux(load.ring, ~0, 1 << load.part)),
            ]
            with m.If(load.ring):
                m.d.sync += row_enable.eq(
                    Cat(load.beat == d // slices for d in range(depth)) if depth > slices else ~0
                )
            with m.Elif(load.column):
                m.d.sync += column_enable.eq(1 << load.index)
            with m.Else():
                m.d.sync += row_enable.eq(1 << load.index)

        masks = []
        for p in range(parts):
            mask = Signal(part_bits, name=f"mask_{p}")
            chosen = column_enable[p * depth : (p + 1) * depth]
            m.d.comb += mask.eq(Cat(bit.replicate(8) for bit in chosen))
            masks.append(mask)
        for d in range(depth):
            byte = column_bus[8 * d : 8 * d + 8]
            for p in range(parts):
                shadow = Signal(part_bits, name=f"shadow_{d}_{p}", reset_less=True)
                start = (d % slices) * 8 * width + p * part_bits
                with m.If(row_enable[d] & part_enable[p]):
                    m.d.sync += shadow.eq(row_bus[start : start + part_bits])
                with m.Elif(column_load):
                    m.d.sync += shadow.eq((shadow & ~masks[p]) | (byte.replicate(depth) & masks[p]))
                with m.If(self.swap):
                    m.d.sync += self.active[d * parts + p].eq(shadow)
        return m
