"""Two int8 products in one multiplier: ``((w1 << 18) + w2) * x``.

The lower product occupies 18 bits, sign included, so the sums of at most four of them stay apart:
4 * 128 * 255 < 2**17. After each segment of four rows the two fields are separated. The lower
field's sign has borrowed one from the upper field; adding the sign bit back restores it.
"""

from __future__ import annotations

from collections.abc import Callable

from amaranth import Module, Signal, Value, signed

from moesaic.hw.matrix.tree import add_stage
from moesaic.spec.arch import ArchConfig

FIELD_BITS = 18
SEGMENT_ROWS = 4
_WEIGHT_BITS = 27  # the DSP48E2's wide input
_PRODUCT_BITS = 2 * FIELD_BITS


def packed_stages() -> int:
    """Cycles between the multipliers' registers and the separated sums of segments."""
    return 2


def packed_columns(
    m: Module,
    arch: ArchConfig,
    weight: Callable[[int, int], Value],
    streamed: list[Signal],
    valid: Value,
) -> tuple[list[list[Value]], Value]:
    """Columns of ``depth / 4`` segment sums (18 bits), three cycles after ``streamed``."""
    pairs: list[list[Value]] = []
    with m.If(valid):
        for w in range(0, arch.width, 2):
            products: list[Value] = []
            for d in range(arch.depth):
                both = Signal(signed(_WEIGHT_BITS), name=f"pair_{d}_{w}")
                m.d.comb += both.eq((weight(d, w + 1) << FIELD_BITS) + weight(d, w))
                product = Signal(signed(_PRODUCT_BITS), name=f"product_{d}_{w}", reset_less=True)
                m.d.sync += product.eq(both * streamed[d])
                products.append(product)
            pairs.append(products)
    valids = [valid]
    for name in ("product", "segment", "field"):
        following = Signal(name=f"{name}_valid")
        m.d.sync += following.eq(valids[-1])
        valids.append(following)
    segments = add_stage(m, pairs, valids[1], "segment")
    columns: list[list[Value]] = []
    with m.If(valids[2]):
        for w, sums in enumerate(segments):
            lower, upper = [], []
            for s, total in enumerate(sums):
                low = Signal(signed(FIELD_BITS), name=f"low_{w}_{s}", reset_less=True)
                high = Signal(signed(FIELD_BITS), name=f"high_{w}_{s}", reset_less=True)
                m.d.sync += [
                    low.eq(total[:FIELD_BITS]),
                    high.eq(total[FIELD_BITS:_PRODUCT_BITS] + total[FIELD_BITS - 1]),
                ]
                lower.append(low)
                upper.append(high)
            columns += [lower, upper]
    return columns, valids[3]
