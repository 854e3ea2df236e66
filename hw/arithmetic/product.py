"""Products wider than one multiplier block, with their registers inside."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, Value

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.spec.parts import FACTOR_BITS


def _slices(value: Value, bits: int) -> list[tuple[int, Value]]:
    """``value`` as (shift, part) of at most ``bits`` magnitude bits; the top one has its sign."""
    signed, parts = value.shape().signed, []
    low = 0
    while len(value) - low > bits + signed:
        parts.append((low, value[low : low + bits]))
        low += bits
    top = value[low:]
    return [*parts, (low, top.as_signed() if signed else top)]


def _signed_as(original: Value, value: Value) -> Value:
    return value.as_signed() if original.shape().signed else value


def _partial_products(
    m: Module, a: list[tuple[int, Value]], b: list[tuple[int, Value]], name: str
) -> list[Value]:
    """Registered products of one multiplier block each, with sum ``a * b``; 1 cycle."""
    products = []
    for shift_a, part_a in a:
        for shift_b, part_b in b:
            product = part_a * part_b
            register = Signal(product.shape(), name=f"{name}_{shift_a}_{shift_b}", reset_less=True)
            m.d.sync += register.eq(product)
            shifted = Cat(Const(0, shift_a + shift_b), register)
            products.append(shifted.as_signed() if product.shape().signed else shifted)
    return products


def wide_product(
    m: Module,
    a: Value,
    b: Value,
    cycles: int,
    name: str,
    factors: tuple[int, int] = FACTOR_BITS["xcup"],
) -> Value:
    """``a * b``, ``cycles`` cycles later: partial products, then one addition per cycle and pair.

    Left to a tool, a wide product is several blocks and adders in a row, with the registers that
    are meant for them behind.

    Parameters
    ----------
    factors
        Bits of a multiplier block's two factors, with their sign: where ``a`` and ``b`` are cut.

    Raises
    ------
    ValueError
        ``cycles`` are too few for so many partial products.
    """
    shape = (a * b).shape()
    wide, narrow = (bits - 1 for bits in factors)
    count = len(_slices(a, wide)) * len(_slices(b, narrow))
    # Registers that are to spare go in front of the blocks, which have some there too.
    spare = cycles - 1 - (count - 1).bit_length()
    if spare > 0:
        a, b = (_signed_as(x, delay(m, x, spare, f"{name}_{n}")) for x, n in ((a, "a"), (b, "b")))
    terms = _partial_products(m, _slices(a, wide), _slices(b, narrow), name)
    for cycle in range(1, cycles - max(spare, 0)):
        sums: list[Value] = []
        for i in range(0, len(terms), 2):
            total = sum(terms[i + 1 : i + 2], start=terms[i])
            register = Signal(total.shape(), name=f"{name}_sum{cycle}_{i // 2}", reset_less=True)
            m.d.sync += register.eq(total)
            sums.append(register)
        terms = sums
    if len(terms) > 1:
        raise ValueError(f"{cycles} cycles are too few for the product {name} of {shape}")
    result = terms[0][: shape.width]
    return result.as_signed() if shape.signed else result
