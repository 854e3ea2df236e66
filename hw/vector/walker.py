"""The loop nest of DRAIN: which chunk of which accumulator row comes next."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.vector.operation import COLUMN_BITS, ROW_BITS
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Drain, Opcode


class Walker(wiring.Component):
    """Steps through groups, n-tiles, rows and chunks; the outputs describe the current chunk.

    A tile without valid columns is one ``null`` step, as is a whole instruction without rows.

    Attributes
    ----------
    start
        Load the inputs below; the first step is there one cycle later.
    kind, rows, n_tiles, groups, columns
        Fields of the instruction; held while ``active``.
    rows_outside
        Finish a row before the next one (then there is one group).
    advance
        The current step is taken.
    active
        There is a current step.
    null, empty
        The step reads nothing; because there is no row at all.
    row, chunk, column
        Row; chunk within the accumulator row; column of the chunk's first lane.
    valid_columns
        Valid columns from the chunk's first on; 0 or less behind the last one.
    address
        Accumulator row.
    row_first, row_last
        First and last chunk of the row, with ``rows_outside``.
    tile
        The n-tile, with ``rows_outside``: its parameter block counted from the oldest.
    tile_last, group_last, last
        Last step of the tile, the group, the instruction.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "kind": In(isa.width(Opcode.DRAIN, "kind")),
                "rows": In(ROW_BITS),
                "n_tiles": In(isa.width(Opcode.DRAIN, "n_tiles")),
                "groups": In(isa.width(Opcode.DRAIN, "groups")),
                "columns": In(isa.width(Opcode.DRAIN, "columns")),
                "rows_outside": In(1),
                "advance": In(1),
                "active": Out(1),
                "null": Out(1),
                "empty": Out(1),
                "row": Out(ROW_BITS),
                "chunk": Out(range(max(2, arch.chunks))),
                "column": Out(COLUMN_BITS),
                "valid_columns": Out(signed(COLUMN_BITS + 1)),
                "address": Out(range(arch.accumulator_rows)),
                "row_first": Out(1),
                "row_last": Out(1),
                "tile": Out(range(arch.parameter_blocks)),
                "tile_last": Out(1),
                "group_last": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        lanes, width, depth = arch.lanes, arch.width, arch.depth
        # SOFTMAX goes on with zeros up to a whole activation word.
        padded = Signal(COLUMN_BITS)
        padding = Signal(range(depth))
        rounded = (self.columns + (depth - 1)) & ~Const(depth - 1, COLUMN_BITS)
        m.d.comb += padded.eq(Mux(self.kind == Drain.SOFTMAX, rounded, self.columns))

        left, tile_left = Signal(COLUMN_BITS), Signal(COLUMN_BITS)
        tile_column = Signal(COLUMN_BITS)
        tiles, groups = len(self.n_tiles), len(self.groups)
        tile = Signal(tiles)
        rows_left, tiles_left, groups_left = Signal(ROW_BITS), Signal(tiles), Signal(groups)

        chunk_last, columns_end, row_end = Signal(), Signal(), Signal()
        m.d.comb += [
            columns_end.eq(left <= lanes),
            chunk_last.eq((self.chunk == arch.chunks - 1) | columns_end | self.null),
            self.null.eq(self.empty | (~self.rows_outside & (tile_left == 0))),
            self.row_first.eq(self.column == 0),
            self.row_last.eq(columns_end | ((tiles_left == 1) & chunk_last)),
            row_end.eq(Mux(self.rows_outside, self.row_last, chunk_last)),
            self.tile.eq(tile),
            self.tile_last.eq(self.null | (row_end & (rows_left == 1))),
            self.group_last.eq(
                self.tile_last & (self.rows_outside | (tiles_left == 1) | self.empty)
            ),
            self.last.eq(self.empty | (self.group_last & (self.rows_outside | (groups_left == 1)))),
            self.valid_columns.eq(left - padding),
        ]

        with m.If(self.start):
            m.d.sync += [
                self.active.eq(1),
                self.empty.eq(self.rows == 0),
                padding.eq(padded - self.columns),
                left.eq(padded),
                tile_left.eq(padded),
                self.column.eq(0),
                tile_column.eq(0),
                self.chunk.eq(0),
                self.row.eq(0),
                rows_left.eq(self.rows),
                tile.eq(0),
                tiles_left.eq(self.n_tiles),
                groups_left.eq(self.groups),
                self.address.eq(0),
            ]
        with m.Elif(self.advance):
            m.d.sync += self.active.eq(~self.last)
            with m.If(~chunk_last):
                m.d.sync += [
                    self.chunk.eq(self.chunk + 1),
                    self.column.eq(self.column + lanes),
                    left.eq(left - lanes),
                ]
            with m.Elif(self.rows_outside):
                m.d.sync += self.chunk.eq(0)
                with m.If(self.row_last):
                    m.d.sync += [
                        self.row.eq(self.row + 1),
                        self.address.eq(self.row + 1),
                        rows_left.eq(rows_left - 1),
                        tile.eq(0),
                        tiles_left.eq(self.n_tiles),
                        self.column.eq(0),
                        left.eq(tile_left),
                    ]
                with m.Else():
                    m.d.sync += [
                        self.address.eq(self.address + self.rows),
                        tile.eq(tile + 1),
                        tiles_left.eq(tiles_left - 1),
                        self.column.eq(self.column + lanes),
                        left.eq(left - lanes),
                    ]
            with m.Else():
                m.d.sync += self.chunk.eq(0)
                with m.If(~self.tile_last):
                    m.d.sync += [
                        self.address.eq(self.address + 1),
                        self.row.eq(self.row + 1),
                        rows_left.eq(rows_left - 1),
                        self.column.eq(tile_column),
                        left.eq(tile_left),
                    ]
                with m.Else():
                    following = Mux(tile_left > width, tile_left - width, 0)
                    m.d.sync += [
                        self.address.eq(self.address + 1),
                        self.row.eq(0),
                        rows_left.eq(self.rows),
                        tile_column.eq(tile_column + width),
                        self.column.eq(tile_column + width),
                        tile_left.eq(following),
                        left.eq(following),
                        tiles_left.eq(tiles_left - 1),
                    ]
                    with m.If(self.group_last):
                        m.d.sync += [
                            self.address.eq(0),
                            tiles_left.eq(self.n_tiles),
                            groups_left.eq(groups_left - 1),
                        ]
        return m
