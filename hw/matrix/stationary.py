"""The way of stationary operands to the columns: three registers, rows and columns of a tile."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

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


_WIDE_BITS = 4096
"""Bits of rows, from which on they have an enable of their own, so that nothing else is late."""

PAIR = 2
"""Neighbouring columns whose weights travel together: what shares a multiplier if packed."""


def less_borrow(weight: Value, borrow: Value) -> Value:
    """A pair's upper weight (signed 8 bits) less one if the lower one is negative: 9 bits."""
    return (weight - borrow)[:9]


def high_bits(arch: ArchConfig) -> int:
    """Bits of a pair's second weight: int8, and one more where the first one's borrow is in it."""
    return 9 if arch.packed else 8


def rows_at_once(arch: ArchConfig) -> int:
    """Tile rows in one ring word."""
    return arch.ring_read_bytes // arch.width


class StationaryBus(wiring.Component):
    """Spreads writes over the array; everything is out three cycles after it came in.

    In a packed array the two weights of a pair are one number, ``(w1 << 18) + w2``. Its upper
    part is ``w1``, less one if ``w2`` is negative: computed here, once per write, and not behind
    every weight. The columns of a pair are written in order, so that the sign is known.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    load, ring_word, operand_word
        The write: see :func:`load_layout`.
    row_data
        ``rows_at_once`` rows of ``width / 2`` pairs, ``8 + high_bits`` bits each; row d of the
        tile takes row ``d % rows_at_once`` of them.
    row_enable, part_enable
        Rows of the tile that take them, in the columns of these parts (``depth`` columns each).
    column_data, column_enable
        ``high_bits`` bits for every row, and the column that takes them.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        pairs = rows_at_once(arch) * arch.width // PAIR
        super().__init__(
            {
                "load": In(load_layout(arch)),
                "ring_word": In(8 * arch.ring_read_bytes),
                "operand_word": In(8 * arch.depth),
                "row_data": Out((8 + high_bits(arch)) * pairs),
                "row_enable": Out(arch.depth),
                "part_enable": Out(arch.width // arch.depth),
                "column_data": Out(high_bits(arch) * arch.depth),
                "column_enable": Out(arch.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.arch.depth
        slices = rows_at_once(self.arch)
        # Sources are far away: their first register does nothing but choose.
        self.came = load = Signal(load_layout(self.arch), reset_less=True)
        came_valid = Signal()
        rows = Signal.like(self.ring_word, reset_less=True)
        operand_word = Signal.like(self.operand_word, reset_less=True)
        operands = self.operand_word.replicate(len(rows) // (8 * depth))
        m.d.sync += [
            load.eq(self.load),
            came_valid.eq(self.load.valid),
            rows.eq(Mux(self.load.ring, self.ring_word, operands)),
            operand_word.eq(self.operand_word),
        ]
        # And the last one nothing but cross the array.
        leaving = {
            name: Signal.like(getattr(self, name), name=f"leaving_{name}", reset_less=True)
            for name in ("row_data", "part_enable", "column_data")
        }
        row_enable, column_enable = Signal(depth), Signal(self.arch.width)
        m.d.sync += [
            *(getattr(self, name).eq(value) for name, value in leaving.items()),
            self.row_enable.eq(row_enable),
            self.column_enable.eq(column_enable),
            row_enable.eq(0),
            column_enable.eq(0),
        ]
        leave_rows = leaving["row_data"].eq(self._pairs(rows))
        if wide := len(self.row_data) >= _WIDE_BITS:
            rows_valid = Signal()
            m.d.sync += rows_valid.eq(self.load.valid & (self.load.ring | ~self.load.column))
            with m.If(rows_valid):
                m.d.sync += leave_rows
        with m.If(came_valid):
            m.d.sync += [
                *([] if wide else [leave_rows]),
                leaving["column_data"].eq(self._column(m, operand_word, came_valid)),
                leaving["part_enable"].eq(Mux(load.ring, ~0, 1 << load.part)),
            ]
            with m.If(load.ring):
                m.d.sync += row_enable.eq(
                    Cat(load.beat == d // slices for d in range(depth)) if depth > slices else ~0
                )
            with m.Elif(load.column):
                m.d.sync += column_enable.eq(1 << load.index)
            with m.Else():
                m.d.sync += row_enable.eq(1 << load.index)
        return m

    def _pairs(self, rows: Value) -> Value:
        """Bytes of rows as pairs."""
        if not self.arch.packed:
            return rows
        pairs = []
        for i in range(0, len(rows), 16):
            low, high = rows[i : i + 8], rows[i + 8 : i + 16].as_signed()
            pairs.append(Cat(low, less_borrow(high, low[7])))
        return Cat(pairs)

    def _column(self, m: Module, column: Value, valid: Value) -> Value:
        """Bytes of a column as its rows take them: the second one of a pair with the borrow."""
        if not self.arch.packed:
            return column
        load, depth = self.came, self.arch.depth
        negative = Signal(depth)  # in the column written last
        with m.If(valid & load.column & ~load.ring):
            m.d.sync += negative.eq(Cat(column[8 * d + 7] for d in range(depth)))
        borrow = negative & load.index[0].replicate(depth)
        return Cat(
            less_borrow(column[8 * d : 8 * d + 8].as_signed(), borrow[d]) for d in range(depth)
        )
