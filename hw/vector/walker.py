"""The loop nest of DRAIN: which chunk of which accumulator row comes next."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.hdl import ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.memory.credit import CreditBuffer
from moesaic.hw.vector.operation import COLUMN_BITS, ROW_BITS, UNSENT_KINDS, is_none
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode


def step_layout(arch: ArchConfig) -> data.StructLayout:
    """A step of the loop nest; the fields are those of :class:`Walker`."""
    return data.StructLayout(
        {
            "null": 1,
            "empty": 1,
            "place": 1,
            "row": ROW_BITS,
            "chunk": range(max(2, arch.chunks)),
            "column": COLUMN_BITS,
            "valid_columns": signed(COLUMN_BITS + 1),
            "lanes": arch.most_lanes,
            "address": range(arch.accumulator_rows),
            "row_first": 1,
            "row_last": 1,
            "tile": range(arch.parameter_blocks),
            "tile_last": 1,
            "group_last": 1,
            "last": 1,
        }
    )


_DECIDING = ("null", "empty", "place", "tile_last", "group_last", "last")
"""Fields of a step on which it hangs whether it is taken, and what ends with it."""


def _part(layout: data.StructLayout, *, deciding: bool) -> data.StructLayout:
    members = layout.members.items()
    return data.StructLayout({n: s for n, s in members if (n in _DECIDING) == deciding})


class Walker(wiring.Component):
    """Steps through groups, n-tiles, rows and chunks, one step ahead of the one it shows.

    A tile without valid columns is one ``null`` step, as is a whole instruction without rows.
    All of ``step`` is a register, so that what decides on taking it begins there. Counters count
    what is left behind the current step, and whether that is nothing is a register beside each.

    Attributes
    ----------
    start
        Load the inputs below; the first step is there two cycles later.
    kind, rows, n_tiles, groups, columns
        Fields of the instruction; held while ``active``.
    end
        Column of the last lane that counts.
    rows_outside
        Finish a row before the next one (then there is one group).
    paired
        Chunks come in pairs, of which the second one alone takes places in the output stage.
    both
        Two chunks are a step, with ``chunk_pairs``.
    step, valid
        The current step. ``null``, ``empty``: it reads nothing; because there is no row at all.
        ``place``: it takes one in the output stage. ``row``; ``chunk`` within the accumulator row;
        ``column`` of the chunk's first lane; ``valid_columns`` from there on, 0 or less behind the
        last one; ``lanes`` that are valid. ``address``: accumulator row. ``row_first``,
        ``row_last``: first and last chunk of the row, with ``rows_outside``. ``tile``: the n-tile,
        with ``rows_outside``: its parameter block counted from the oldest. ``tile_last``,
        ``group_last``, ``last``: last step of the tile, the group, the instruction.
    advance
        The current step is taken.
    active
        There are steps to come, or a current one.
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
                "end": In(COLUMN_BITS),
                "rows_outside": In(1),
                "paired": In(1),
                **({"both": In(1)} if arch.chunk_pairs else {}),
                "advance": In(1),
                "step": Out(step_layout(arch)),
                "valid": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        lanes, width = arch.lanes, arch.width
        lanes_log2, width_log2 = lanes.bit_length() - 1, width.bit_length() - 1

        end = self.end
        by_two = Signal() if arch.chunk_pairs else None
        chunks, columns, most_chunks = self._stride(by_two)
        walking = Signal()
        following = Signal(step_layout(arch))  # the step that the registers describe
        # There is no row; or this is a tile without valid columns, as are all behind it.
        empty, null = Signal(), Signal()
        row, chunk, column = (
            Signal(ROW_BITS),
            Signal(range(max(2, arch.chunks))),
            Signal(COLUMN_BITS),
        )
        tile_column = Signal(COLUMN_BITS)
        valid_columns = Signal(signed(COLUMN_BITS + 1))
        tile_valid = Signal(signed(COLUMN_BITS + 1))
        address, tile = Signal(range(arch.accumulator_rows)), Signal(len(self.n_tiles))

        # What is left behind this step: chunks of the row in this tile, tiles with valid columns.
        chunks_left, last_chunks = Signal.like(chunk), Signal.like(chunk)
        valid_left, all_valid_left = Signal(COLUMN_BITS), Signal(COLUMN_BITS)
        last_valid, one_valid = Signal(), Signal()
        rows, tiles = Countdown(ROW_BITS, "rows"), Countdown(len(self.n_tiles), "tiles")
        groups = Countdown(len(self.groups), "groups")
        last_row, last_tile = rows.last, tiles.last
        # Beside the counters. This tile ends its group. The chunk that ends the row in this tile
        # also ends the row, with rows outside, or else the tile.
        ends_group, together = Signal(), Signal()
        # `stays` is `turns` turned over: the columns of the next step, a word far away, hang on it
        # and share no gate with what decides on the rest.
        turns, stays, onward = Signal(), Signal(init=1), Signal()
        # Also where there is nothing at all: the one step is the last chunk.
        last_chunk, one_chunk = Signal(), Signal()
        tile_last, group_last = Signal(), Signal()
        more = Signal()  # groups: the inverse of `groups.last`, so that `place` shares no gate
        places = Signal()  # also a step that is not the last one takes a place in the output stage
        outside = Signal()  # `rows_outside` from the start on: others hang on that
        m.d.comb += [
            following.empty.eq(empty),
            following.null.eq(null),
            following.row.eq(row),
            following.chunk.eq(chunk),
            following.column.eq(column),
            following.valid_columns.eq(valid_columns),
            following.lanes.eq(self._lanes(valid_columns)),
            following.address.eq(address),
            following.row_first.eq(column == 0),
            following.row_last.eq(last_chunk & (last_valid | last_tile)),
            following.tile.eq(tile),
            tile_last.eq(last_chunk & turns & (last_row | ~outside)),
            group_last.eq(tile_last & ends_group),
            following.tile_last.eq(tile_last),
            following.group_last.eq(group_last),
            following.last.eq(group_last & groups.last),
            following.place.eq(
                (group_last & ~more) | (places & (~self.paired | column[lanes_log2]))
            ),
        ]
        # What decides is apart from the rest, so that little hangs on which step is shown.
        layout = step_layout(arch)
        m.submodules.flags = flags = CreditBuffer(_part(layout, deciding=True))
        m.submodules.steps = steps = CreditBuffer(_part(layout, deciding=False))
        for name in layout.members:
            buffer = flags if name in _DECIDING else steps
            m.d.comb += [
                buffer.i.payload[name].eq(following[name]),
                self.step[name].eq(buffer.o.payload[name]),
            ]
        # Whether there is a step to make and room for it: a register, for all counters hang on it.
        move, still_walking = Signal(), Signal()
        m.d.comb += [
            *(buffer.i.valid.eq(move) for buffer in (flags, steps)),
            *(buffer.o.ready.eq(self.advance) for buffer in (flags, steps)),
            self.valid.eq(flags.o.valid),
            still_walking.eq(self.start | (walking & ~(move & following.last))),
            self.active.eq(walking | self.valid),
        ]
        m.d.sync += [walking.eq(still_walking), move.eq(still_walking & flags.room)]

        def enter_tile(none_left: Value, nothing: ValueLike = 0) -> None:
            """The first chunk of a row in a tile with valid columns, perhaps the last such one."""
            m.d.sync += [
                chunk.eq(0),
                chunks_left.eq(Mux(none_left, last_chunks, most_chunks)),
                last_chunk.eq(nothing | Mux(none_left, one_chunk, most_chunks == 0)),
            ]

        def turn(value: Value) -> list[ValueLike]:
            return [turns.eq(value), stays.eq(~value)]

        m.d.comb += onward.eq(~last_chunk | (outside & stays))
        with m.If(self.start):
            ends: ValueLike = end[lanes_log2:width_log2] if width_log2 > lanes_log2 else 0
            most_now = most_chunks
            if by_two is not None:
                _, _, most_now = self._stride(self.both)
                ends = Mux(self.both, end[lanes_log2 + 1 : width_log2], ends)
                m.d.sync += by_two.eq(self.both)
            none_left = ~end[width_log2:].any()
            together_now = self.rows_outside | (self.rows == 0)
            m.d.sync += [
                outside.eq(self.rows_outside),
                places.eq(is_none(self.kind, UNSENT_KINDS) & (self.rows != 0)),
                together.eq(together_now),
                ends_group.eq(together_now | (self.n_tiles == 1)),
                *turn(
                    Mux(
                        self.rows_outside,
                        none_left | (self.n_tiles == 1),
                        self.rows == 1,
                    )
                    | (self.rows == 0)
                ),
                empty.eq(self.rows == 0),
                null.eq(self.rows == 0),
                last_chunks.eq(ends),
                one_chunk.eq(ends == 0),
                last_chunk.eq((self.rows == 0) | Mux(none_left, ends == 0, most_now == 0)),
                chunk.eq(0),
                chunks_left.eq(Mux(none_left, ends, most_now)),
                column.eq(0),
                tile_column.eq(0),
                valid_columns.eq(self.columns),
                tile_valid.eq(self.columns),
                valid_left.eq(end[width_log2:]),
                all_valid_left.eq(end[width_log2:]),
                last_valid.eq(none_left),
                one_valid.eq(none_left),
                row.eq(0),
                address.eq(0),
                *rows.begin(self.rows, self.rows == 0),
                tile.eq(0),
                *tiles.begin(self.n_tiles),
                *groups.begin(self.groups, together_now),
                more.eq(~together_now & (self.groups != 1)),
            ]
        with m.Elif(move):
            # The columns of the next step are three: those behind this one's, those that the tile
            # begins with again (with rows outside: the row), those of the next tile.
            m.d.sync += [
                column.eq(
                    Mux(
                        onward,
                        column + columns,
                        Mux(outside | stays, tile_column, tile_column + width),
                    )
                ),
                valid_columns.eq(
                    Mux(
                        onward,
                        valid_columns - columns,
                        Mux(outside | stays, tile_valid, tile_valid - width),
                    )
                ),
            ]
            with m.If(~last_chunk):
                m.d.sync += [
                    chunk.eq(chunk + chunks),
                    chunks_left.eq(chunks_left - 1),
                    last_chunk.eq(chunks_left == 1),
                ]
            with m.Elif(outside & turns):
                m.d.sync += [
                    row.eq(row + 1),
                    address.eq(row + 1),
                    *rows.step(),
                    tile.eq(0),
                    *tiles.restart(self.n_tiles - 1),
                    valid_left.eq(all_valid_left),
                    last_valid.eq(one_valid),
                    *turn(one_valid | tiles.only),
                ]
                enter_tile(one_valid)
            with m.Elif(outside):
                m.d.sync += [
                    address.eq(address + self.rows),
                    tile.eq(tile + 1),
                    *tiles.step(),
                    valid_left.eq(valid_left - 1),
                    last_valid.eq(valid_left == 1),
                    *turn((valid_left == 1) | (tiles.left == 1)),
                ]
                enter_tile(valid_left == 1)
            with m.Elif(~turns):
                m.d.sync += [
                    address.eq(address + 1),
                    row.eq(row + 1),
                    *rows.step(),
                    *turn(rows.left == 1),
                ]
                enter_tile(last_valid)
            with m.Else():
                m.d.sync += [
                    address.eq(Mux(ends_group, 0, address + 1)),
                    row.eq(0),
                    *rows.restart(self.rows - 1),
                    *turn(null | last_valid | rows.only),
                    tile_column.eq(tile_column + width),
                    tile_valid.eq(tile_valid - width),
                    null.eq(null | last_valid),
                    places.eq(places & ~last_valid),
                    valid_left.eq(valid_left - 1),
                    last_valid.eq(valid_left == 1),
                    *tiles.step(),
                    ends_group.eq(together | (tiles.left == 1)),
                ]
                enter_tile(valid_left == 1, null | last_valid)
                with m.If(ends_group):
                    m.d.sync += [
                        *tiles.restart(self.n_tiles - 1),
                        ends_group.eq(together | tiles.only),
                        *groups.step(),
                        more.eq(groups.left != 1),
                    ]
        return m

    def _stride(self, by_two: Value | None) -> tuple[ValueLike, ValueLike, ValueLike]:
        """Chunks and columns of a step, and steps of a row in a whole column tile, less one."""
        one = (1, self.arch.lanes, self.arch.chunks - 1)
        if by_two is None:
            return one
        two = (2, 2 * self.arch.lanes, self.arch.chunks // 2 - 1)
        chunks, columns, most = (Mux(by_two, b, a) for a, b in zip(one, two, strict=True))
        return chunks, columns, most

    def _lanes(self, valid: Signal) -> Value:
        """Of a step the lanes that are valid, ``valid`` columns being left."""
        lanes = self.arch.lanes
        bits = lanes.bit_length() - 1
        some = Cat(valid[:bits] > i for i in range(lanes))
        parts = [Mux(valid[bits:-1].any(), ~0, some)[:lanes]]
        if self.arch.chunk_pairs:  # the second chunk's, of the same comparisons
            second = Mux(valid[bits], some, 0)
            parts.append(Mux(valid[bits + 1 : -1].any(), ~0, second)[:lanes])
        return Mux(valid[-1], 0, Cat(parts))
