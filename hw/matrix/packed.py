"""Two int8 products in one multiplier: ``((w1 << 18) + w2) * x``.

The lower product occupies 18 bits, sign included, so the sums of at most four of them stay apart:
4 * 128 * 255 < 2**17. After each segment of four rows the two fields are separated. The lower
field's sign has borrowed one from the upper field; adding the sign bit back restores it. The sum
``(w1 << 18) + w2`` borrows in the same way: the upper weight arrives with that borrow already in
it (``hw/matrix/stationary.py``), so that the two only have to be put side by side.

That this is exact for every operand is proven in ``tests/hw/test_packed.py``: the number put
together and the fields taken apart by a SAT solver on this code, and between them the distributive
law, ``((w1 << 18) + w2) * x = (w1 * x << 18) + w2 * x``.
"""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value, signed

from moesaic.hw.arithmetic.tree import add_stage, tree_stages

FIELD_BITS = 18
SEGMENT_ROWS = 4
_PRODUCT_BITS = 2 * FIELD_BITS


def combine(low: Value, high: Value) -> Value:
    """``(w1 << 18) + w2`` (27 bits) of ``low`` = w2 and ``high`` = w1 less w2's borrow."""
    return Cat(low, low[-1].replicate(FIELD_BITS - len(low)), high).as_signed()


def separate(total: Value) -> tuple[Value, Value]:
    """The two 18-bit fields of a sum: exact if the lower one's true value fits 18 bits."""
    low = total[:FIELD_BITS].as_signed()
    high = (total[FIELD_BITS:_PRODUCT_BITS] + total[FIELD_BITS - 1])[:FIELD_BITS].as_signed()
    return low, high


def packed_stages() -> int:
    """Cycles between the multipliers' registers and the separated sums of segments."""
    return tree_stages(SEGMENT_ROWS) + 1


def packed_sums(
    m: Module, weights: list[tuple[Value, ...]], streamed: list[Value], valid: Value
) -> tuple[list[list[Value]], Value]:
    """Two columns of ``depth / 4`` segment sums (18 bits).

    They follow ``1 + packed_stages()`` cycles after ``streamed``. ``weights`` are pairs of the
    lower int8 and the upper one less its borrow: 27 bits together, the DSP48E2's wide input.
    """
    products: list[Value] = []
    with m.If(valid):
        for d, ((low, high), value) in enumerate(zip(weights, streamed, strict=True)):
            product = Signal(signed(_PRODUCT_BITS), name=f"product_{d}", reset_less=True)
            m.d.sync += product.eq(combine(low, high) * value)
            products.append(product)
    summed = _later(m, valid, "product_valid")
    segments = products
    for stage in range(tree_stages(SEGMENT_ROWS)):
        (segments,) = add_stage(m, [segments], summed, f"segment{stage}")
        summed = _later(m, summed, f"segment{stage}_valid")
    lower: list[Value] = []
    upper: list[Value] = []
    with m.If(summed):
        for s, total in enumerate(segments):
            low = Signal(signed(FIELD_BITS), name=f"low_{s}", reset_less=True)
            high = Signal(signed(FIELD_BITS), name=f"high_{s}", reset_less=True)
            fields = separate(total)
            m.d.sync += [low.eq(fields[0]), high.eq(fields[1])]
            lower.append(low)
            upper.append(high)
    return [lower, upper], _later(m, summed, "field_valid")


def _later(m: Module, value: Value, name: str) -> Signal:
    register = Signal(name=name)
    m.d.sync += register.eq(value)
    return register
