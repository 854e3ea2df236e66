"""The array: ``depth`` products for each of ``width`` columns and cycle, summed per column."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.matrix.packed import packed_columns, packed_stages
from moesaic.hw.matrix.stationary import StationaryStore, load_layout
from moesaic.hw.matrix.tree import add_tree, tree_stages
from moesaic.spec.arch import ArchConfig

STREAMED_BITS = 9
"""int8 and uint8 both fit a signed value of nine bits."""


def sum_bits(arch: ArchConfig) -> int:
    """Bits of one column's sum: 17 bits hold any int8 times (int8 or uint8)."""
    return 8 + STREAMED_BITS + arch.depth.bit_length() - 1


def array_latency(arch: ArchConfig) -> int:
    """Cycles from a streamed word to its sums: word register, products, adders."""
    if arch.packed:
        return 2 + packed_stages() + tree_stages(arch.depth // 4)
    return 2 + tree_stages(arch.depth)


class Array(wiring.Component):
    """Multiplies a stream of words with the stationary tile, one word per cycle, never stalling.

    ``sums`` belongs to the word presented :func:`array_latency` cycles before, and holds its
    value until the next word's sums. ``packed`` architectures compute two products per DSP; the
    sums are the same bit for bit.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    word, is_signed, valid
        ``depth`` bytes, int8 if ``is_signed``, else uint8.
    swap
        With ``valid``: this word and the following meet the tile in the shadow store.
    load, ring_word, operand_word
        Writes into the shadow store, see :class:`StationaryStore`.
    sums
        ``width`` signed sums of ``sum_bits``.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "word": In(8 * arch.depth),
                "is_signed": In(1),
                "valid": In(1),
                "swap": In(1),
                "load": In(load_layout(arch)),
                "ring_word": In(8 * arch.ring_read_bytes),
                "operand_word": In(8 * arch.depth),
                "sums": Out(arch.width * sum_bits(arch)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        m.submodules.store = store = StationaryStore(arch)
        m.d.comb += [
            store.load.eq(self.load),
            store.ring_word.eq(self.ring_word),
            store.operand_word.eq(self.operand_word),
            store.swap.eq(self.valid & self.swap),
        ]
        valid = Signal()
        m.d.sync += valid.eq(self.valid)
        streamed = []
        for d in range(arch.depth):
            byte = self.word[8 * d : 8 * d + 8]
            value = Signal(signed(STREAMED_BITS), name=f"streamed_{d}", reset_less=True)
            with m.If(self.valid):
                m.d.sync += value.eq(Cat(byte, self.is_signed & byte[7]))
            streamed.append(value)
        if arch.packed:
            columns, valid = packed_columns(m, arch, store.weight, streamed, valid)
        else:
            columns, valid = plain_columns(m, arch, store, streamed, valid)
        fields: list[Value] = []
        sums, _ = add_tree(m, columns, valid, "sum")
        for w, total in enumerate(sums):
            field = Signal(signed(sum_bits(arch)), name=f"field_{w}")
            m.d.comb += field.eq(total)
            fields.append(field)
        m.d.comb += self.sums.eq(Cat(fields))
        return m


def plain_columns(
    m: Module, arch: ArchConfig, store: StationaryStore, streamed: list[Signal], valid: Value
) -> tuple[list[list[Value]], Value]:
    """One multiplier per product: columns of ``depth`` registered products, one cycle."""
    columns: list[list[Value]] = []
    with m.If(valid):
        for w in range(arch.width):
            products: list[Value] = []
            for d in range(arch.depth):
                product = Signal(
                    signed(8 + STREAMED_BITS), name=f"product_{d}_{w}", reset_less=True
                )
                m.d.sync += product.eq(store.weight(d, w) * streamed[d])
                products.append(product)
            columns.append(products)
    done = Signal(name="product_valid")
    m.d.sync += done.eq(valid)
    return columns, done
