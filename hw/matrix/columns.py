"""A pair of neighbouring columns of the array: their weights, their products, their sums."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.tree import add_tree, tree_stages
from moesaic.hw.matrix.packed import packed_stages, packed_sums
from moesaic.hw.matrix.stationary import PAIR, high_bits, rows_at_once
from moesaic.spec.arch import ArchConfig

STREAMED_BITS = 9
"""int8 and uint8 both fit a signed value of nine bits."""


_KEEP = {"keep": "true"}


def sum_bits(arch: ArchConfig) -> int:
    """Bits of one column's sum: 17 bits hold any int8 times (int8 or uint8)."""
    return 8 + STREAMED_BITS + arch.depth.bit_length() - 1


def column_latency(arch: ArchConfig) -> int:
    """Cycles from a streamed word to its sums: a register, products and adders."""
    if arch.packed:
        return 2 + packed_stages() + tree_stages(arch.depth // 4)
    return 2 + tree_stages(arch.depth)


class ColumnPair(wiring.Component):
    """Two columns of ``depth`` int8 weights, twice: a shadow that is loaded and the active ones.

    What comes to all pairs has a register here, which is the multipliers' own: a word does not
    cross the array and a multiplier in one cycle. These registers are equal in all pairs, and
    attributes tell the tools to keep them apart. ``swap`` in cycle s makes the shadow the active
    weights from cycle s + 2 on. Loads presented in cycle s + 1 or later belong to the tile after.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    streamed, valid
        ``depth`` values, held while ``valid`` is low.
    swap
        Make the shadow weights the active ones.
    row_data, row_enable, column_data, column_enable
        This pair's share of the writes, see :class:`~moesaic.hw.matrix.stationary.StationaryBus`.
    sums
        Sums of the word presented :func:`column_latency` cycles before.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "streamed": In(data.ArrayLayout(signed(STREAMED_BITS), arch.depth)),
                "valid": In(1),
                "swap": In(1),
                "row_data": In((8 + high_bits(arch)) * rows_at_once(arch)),
                "row_enable": In(arch.depth),
                "column_data": In(high_bits(arch) * arch.depth),
                "column_enable": In(PAIR),
                "sums": Out(data.ArrayLayout(signed(sum_bits(arch)), PAIR)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, swap = Signal(attrs=_KEEP), Signal(attrs=_KEEP)
        m.d.sync += [valid.eq(self.valid), swap.eq(self.swap)]
        streamed: list[Value] = []
        with m.If(self.valid):
            for d in range(self.arch.depth):
                value = Signal(
                    signed(STREAMED_BITS), name=f"streamed_{d}", reset_less=True, attrs=_KEEP
                )
                m.d.sync += value.eq(self.streamed[d])
                streamed.append(value)
        weights = self._weights(m, swap)
        products = packed_sums if self.arch.packed else _products
        columns, valid = products(m, weights, streamed, valid)
        sums, _ = add_tree(m, columns, valid, "sum")
        m.d.comb += [self.sums[w].eq(total) for w, total in enumerate(sums)]
        return m

    def _weights(self, m: Module, swap: Value) -> list[tuple[Value, ...]]:
        """Active weights of every row."""
        slices, bits = rows_at_once(self.arch), high_bits(self.arch)
        weights: list[tuple[Value, ...]] = []
        for d in range(self.arch.depth):
            row: list[Value] = []
            pair = self.row_data.word_select(d % slices, 8 + bits)
            for w, part in enumerate((pair[:8], pair[8:])):
                shadow = Signal(len(part), name=f"shadow_{d}_{w}", reset_less=True)
                active = Signal(signed(len(part)), name=f"active_{d}_{w}", reset_less=True)
                with m.If(self.row_enable[d]):
                    m.d.sync += shadow.eq(part)
                with m.Elif(self.column_enable[w]):
                    m.d.sync += shadow.eq(self.column_data.word_select(d, bits))
                with m.If(swap):
                    m.d.sync += active.eq(shadow)
                row.append(active)
            weights.append(tuple(row))
        return weights


def _products(
    m: Module, weights: list[tuple[Value, ...]], streamed: list[Value], valid: Value
) -> tuple[list[list[Value]], Value]:
    """One multiplier per product: columns of ``depth`` registered products, one cycle."""
    columns: list[list[Value]] = [[] for _ in weights[0]]
    with m.If(valid):
        for d, (row, value) in enumerate(zip(weights, streamed, strict=True)):
            for w, weight in enumerate(row):
                product = Signal(
                    signed(8 + STREAMED_BITS), name=f"product_{d}_{w}", reset_less=True
                )
                m.d.sync += product.eq(weight * value)
                columns[w].append(product)
    done = Signal(name="product_valid")
    m.d.sync += done.eq(valid)
    return columns, done


def concatenate(pairs: list[ColumnPair]) -> Value:
    """The sums of all columns, the first one lowest."""
    return Cat(pair.sums[w] for pair in pairs for w in range(PAIR))
