"""Addresses of tiles whose stationary operand is activations, as columns or as rows."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY, ActivationRead
from moesaic.hw.matrix.stationary import load_layout
from moesaic.hw.matrix.step import MATMUL
from moesaic.spec.arch import ArchConfig


class OperandTile(wiring.Component):
    """Reads the existing words of one tile after the other, one per cycle.

    COLUMNS: ``width`` words, one array column each. ROWS: ``depth`` rows of ``width / depth``
    words. Only ``existing`` columns (counted on over n-tiles and groups) or rows (counted over
    the k-tiles) are there to be read. No multiplier: all addresses are running sums.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    start
        Begin with the first tile of an operand whose description is stable from the next cycle.
    rows_mode, base, stride, existing
        The description: ROWS or COLUMNS, and the instruction's fields.
    last_k
        The tile under way is the last one along the reduction.
    enable
        The shadow store is free: go on with the tile.
    requested, landed
        The last word of the tile has been requested; it arrives (in the order of tiles). A tile
        with no existing word takes one enabled cycle.
    read
        Port of the activation scratchpad.
    load
        Where the word that arrives in this cycle goes.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "rows_mode": In(1),
                "base": In(MATMUL["stationary_base"].shape),
                "stride": In(MATMUL["stationary_stride"].shape),
                "existing": In(MATMUL["stationary_rows"].shape),
                "last_k": In(1),
                "enable": In(1),
                "requested": Out(1),
                "landed": Out(1),
                "read": Out(ActivationRead(arch)),
                "load": Out(load_layout(arch)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        parts = arch.width // arch.depth
        # Word of the column or row under way; of the tile; of the first tile of this n-tile.
        word, count = len(self.base), len(self.existing)
        cursor, tile, n_first = Signal(word), Signal(word), Signal(word)
        left, tile_left = Signal(count), Signal(count)  # existing columns or rows from there on
        index, part = Signal(range(arch.width)), Signal(range(max(parts, 2)))
        fresh = Signal()

        accepted, last_part, last_index, none_left = Signal(), Signal(), Signal(), Signal()
        word_done = Signal()
        m.d.comb += [
            none_left.eq(left == 0),
            last_part.eq(~self.rows_mode | (part == parts - 1)),
            last_index.eq(
                (index == Mux(self.rows_mode, arch.depth - 1, arch.width - 1)) | (left == 1)
            ),
            self.read.valid.eq(self.enable & ~fresh & ~none_left),
            self.read.address.eq(cursor + part),
            accepted.eq(self.read.valid & self.read.ready),
            word_done.eq(accepted & last_part),
            self.requested.eq((word_done & last_index) | (self.enable & ~fresh & none_left)),
        ]
        next_cursor, next_left = Signal(word), Signal(count)
        next_n = Signal(word)
        m.d.comb += [
            next_cursor.eq(cursor + self.stride),
            next_left.eq(Mux(none_left, 0, left - 1)),
            next_n.eq(n_first + Mux(self.rows_mode, parts, self.stride * arch.width)),
        ]
        with m.If(accepted):
            m.d.sync += part.eq(Mux(last_part, 0, part + 1))
        with m.If(word_done):
            m.d.sync += [cursor.eq(next_cursor), left.eq(next_left), index.eq(index + 1)]
        with m.If(self.requested):
            m.d.sync += index.eq(0)
            with m.If(self.last_k):
                m.d.sync += [n_first.eq(next_n), tile.eq(next_n), cursor.eq(next_n)]
                with m.If(self.rows_mode):
                    m.d.sync += left.eq(self.existing)
                with m.Else():
                    m.d.sync += [left.eq(next_left), tile_left.eq(next_left)]
            with m.Elif(~self.rows_mode):
                m.d.sync += [tile.eq(tile + 1), cursor.eq(tile + 1), left.eq(tile_left)]
        with m.If(self.start):
            m.d.sync += fresh.eq(1)
        with m.If(fresh):
            m.d.sync += [
                fresh.eq(0),
                cursor.eq(self.base),
                tile.eq(self.base),
                n_first.eq(self.base),
                left.eq(self.existing),
                tile_left.eq(self.existing),
            ]

        # What a word is travels with it through the scratchpad.
        load = Signal(load_layout(arch))
        landing = Signal()
        m.d.comb += [
            load.valid.eq(accepted),
            load.column.eq(~self.rows_mode),
            load.index.eq(index),
            load.part.eq(part),
            landing.eq(self.requested),
        ]
        for i in range(ACTIVATION_READ_LATENCY):
            later = Signal(load_layout(arch), name=f"load{i}")
            later_landing = Signal(name=f"landing{i}")
            m.d.sync += [later.eq(load), later_landing.eq(landing)]
            load, landing = later, later_landing
        m.d.comb += [self.load.eq(load), self.landed.eq(landing)]
        return m
