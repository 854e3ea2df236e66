"""Addresses of tiles whose stationary operand is activations, as columns or as rows."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY, ActivationRead
from moesaic.hw.matrix.stationary import load_layout
from moesaic.hw.matrix.step import MATMUL
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.spec.arch import ArchConfig


class _Left:
    """Columns or rows that are left; that it is none, or one, is a register beside the number."""

    def __init__(self, bits: int, name: str) -> None:
        self.count = Signal(bits, name=name)
        self.none, self.one = Signal(name=f"{name}_none"), Signal(name=f"{name}_one")

    def value(self) -> tuple[Value, Value, Value]:
        return self.count, self.none, self.one

    def less_one(self) -> tuple[Value, Value, Value]:
        """One less, or still none."""
        return Mux(self.none, 0, self.count - 1), self.none | self.one, self.count == 2

    def copy(self, value: tuple[Value, Value, Value]) -> list[ValueLike]:
        return [
            own.eq(new) for own, new in zip((self.count, self.none, self.one), value, strict=True)
        ]

    def begin(self, count: Value) -> list[ValueLike]:
        return self.copy((count, count == 0, count == 1))


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
        Take the description; while ``enable`` is low.
    rows_mode, base, stride, existing
        The description: ROWS or COLUMNS, and the instruction's fields.
    last_k
        The tile under way is the last one along the reduction.
    enable
        The shadow store is free: go on with the tile. Low in the cycle after ``requested``.
    requested, landed
        The last word of the tile has been requested; it arrives (in the order of tiles). A tile
        with no existing word takes one read.
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
        # Existing columns or rows from there on; that it is none or one is beside the number.
        left, tile_left = _Left(count, "left"), _Left(count, "tile_left")
        index, part = Signal(range(arch.width)), Signal(range(max(parts, 2)))
        last_index, last_part = Signal(), Signal()

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
        accepted, word_done, ends = Signal(), Signal(), Signal()
        m.d.comb += [
            ends.eq(left.none | (last_part & (last_index | left.one))),
            # A tile without words reads one that nobody takes.
            request.i.valid.eq(self.enable),
            request.i.payload.read.eq(~left.none),
            request.i.payload.address.eq(cursor + part),
            request.i.payload.column.eq(~self.rows_mode),
            request.i.payload.index.eq(index),
            request.i.payload.part.eq(part),
            request.i.payload.last.eq(ends),
            accepted.eq(request.i.valid & request.i.ready & ~left.none),
            word_done.eq(accepted & last_part),
            self.requested.eq(request.i.valid & request.i.ready & ends),
        ]
        next_cursor, next_n, step_n = Signal(word), Signal(word), Signal(word)
        m.d.comb += [
            next_cursor.eq(cursor + self.stride),
            next_n.eq(n_first + step_n),
        ]
        before_last = Mux(self.rows_mode, arch.depth - 2, arch.width - 2)
        with m.If(accepted):
            m.d.sync += part.eq(Mux(last_part, 0, part + 1))
            if parts > 1:
                m.d.sync += last_part.eq(~self.rows_mode | (~last_part & (part == parts - 2)))
        with m.If(word_done):
            m.d.sync += [
                cursor.eq(next_cursor),
                *left.copy(left.less_one()),
                index.eq(index + 1),
                last_index.eq(index == before_last),
            ]
        # The tile has ended: there is no `enable`, and so a cycle for what comes next.
        ended, ended_k = Signal(), Signal()
        m.d.sync += [ended.eq(self.requested), ended_k.eq(self.last_k)]
        with m.If(ended):
            m.d.sync += [index.eq(0), last_index.eq(0)]
            with m.If(ended_k):
                m.d.sync += [n_first.eq(next_n), tile.eq(next_n), cursor.eq(next_n)]
                with m.If(self.rows_mode):
                    m.d.sync += left.begin(self.existing)
                with m.Else():
                    m.d.sync += tile_left.copy(left.value())
            with m.Elif(~self.rows_mode):
                m.d.sync += [tile.eq(tile + 1), cursor.eq(tile + 1), *left.copy(tile_left.value())]
        with m.If(self.start):
            m.d.sync += [
                step_n.eq(Mux(self.rows_mode, parts, self.stride * arch.width)),
                cursor.eq(self.base),
                tile.eq(self.base),
                n_first.eq(self.base),
                last_part.eq(~self.rows_mode if parts > 1 else 1),
                *left.begin(self.existing),
                *tile_left.begin(self.existing),
            ]

        # What a word is travels with it through the scratchpad.
        head = request.o.payload
        load = Signal(load_layout(arch))
        landing = Signal()
        m.d.comb += [
            self.read.valid.eq(request.o.valid),
            self.read.address.eq(head.address),
            request.o.ready.eq(self.read.ready),
            load.valid.eq(request.o.valid & self.read.ready & head.read),
            load.column.eq(head.column),
            load.index.eq(head.index),
            load.part.eq(head.part),
            landing.eq(request.o.valid & self.read.ready & head.last),
        ]
        for i in range(ACTIVATION_READ_LATENCY):
            later = Signal(load_layout(arch), name=f"load{i}")
            later_landing = Signal(name=f"landing{i}")
            m.d.sync += [later.eq(load), later_landing.eq(landing)]
            load, landing = later, later_landing
        m.d.comb += [self.load.eq(load), self.landed.eq(landing)]
        return m
