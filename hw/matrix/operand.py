"""Addresses of tiles whose stationary operand is activations, as columns or as rows."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY, ActivationRead
from moesaic.hw.matrix.stationary import load_layout
from moesaic.hw.matrix.step import MATMUL
from moesaic.hw.memory.skid import SkidBuffer
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

        # The scratchpad's answer goes no further than to this buffer.
        m.submodules.request = request = SkidBuffer(
            data.StructLayout(
                {
                    "address": range(arch.activation_words),
                    "read": 1,
                    "column": 1,
                    "index": range(arch.width),
                    "part": range(max(parts, 2)),
                    "last": 1,
                }
            )
        )
        accepted, last_part, last_index, none_left = Signal(), Signal(), Signal(), Signal()
        word_done = Signal()
        m.d.comb += [
            none_left.eq(left == 0),
            last_part.eq(~self.rows_mode | (part == parts - 1)),
            last_index.eq(
                (index == Mux(self.rows_mode, arch.depth - 1, arch.width - 1)) | (left == 1)
            ),
            # A tile without words passes as one that reads nothing.
            request.i.valid.eq(self.enable & ~fresh),
            request.i.payload.read.eq(~none_left),
            request.i.payload.address.eq(cursor + part),
            request.i.payload.column.eq(~self.rows_mode),
            request.i.payload.index.eq(index),
            request.i.payload.part.eq(part),
            request.i.payload.last.eq(self.requested),
            accepted.eq(request.i.valid & request.i.ready & ~none_left),
            word_done.eq(accepted & last_part),
            self.requested.eq(
                request.i.valid & request.i.ready & (none_left | (last_part & last_index))
            ),
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
        head, passes = request.o.payload, Signal()
        load = Signal(load_layout(arch))
        landing = Signal()
        m.d.comb += [
            self.read.valid.eq(request.o.valid & head.read),
            self.read.address.eq(head.address),
            passes.eq(~head.read | self.read.ready),
            request.o.ready.eq(passes),
            load.valid.eq(self.read.valid & passes),
            load.column.eq(head.column),
            load.index.eq(head.index),
            load.part.eq(head.part),
            landing.eq(request.o.valid & passes & head.last),
        ]
        for i in range(ACTIVATION_READ_LATENCY):
            later = Signal(load_layout(arch), name=f"load{i}")
            later_landing = Signal(name=f"landing{i}")
            m.d.sync += [later.eq(load), later_landing.eq(landing)]
            load, landing = later, later_landing
        m.d.comb += [self.load.eq(load), self.landed.eq(landing)]
        return m
