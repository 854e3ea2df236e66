"""Products wider than one multiplier block, with their registers inside."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, Value

from moesaic.hw.arithmetic.pipeline import delay

_WIDE, _NARROW = 26, 17
"""Magnitude bits of the two factors of a DSP48E2 (27 by 18, signed)."""


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


def partial_products(m: Module, a: Value, b: Value, name: str) -> list[Value]:
    """Registered products of one multiplier block each, with sum ``a * b``; 1 cycle.

    Left to a tool, a wide product is several blocks and adders in a row, with the registers that
    are meant for them behind. At most 52 by 17 or 26 by 34 magnitude bits make two, and so on.
    """
    products = []
    for shift_a, part_a in _slices(a, _WIDE):
        for shift_b, part_b in _slices(b, _NARROW):
            product = part_a * part_b
            register = Signal(product.shape(), name=f"{name}_{shift_a}_{shift_b}", reset_less=True)
            m.d.sync += register.eq(product)
            shifted = Cat(Const(0, shift_a + shift_b), register)
            products.append(shifted.as_signed() if product.shape().signed else shifted)
    return products


def wide_product(m: Module, a: Value, b: Value, cycles: int, name: str) -> Value:
    """``a * b``, ``cycles`` cycles later: partial products, then one addition per cycle and pair.

    Raises
    ------
    ValueError
        ``cycles`` are too few for so many partial products.
    """
    shape = (a * b).shape()
    count = len(_slices(a, _WIDE)) * len(_slices(b, _NARROW))
    # Registers that are to spare go in front of the blocks, which have some there too.
    spare = cycles - 1 - (count - 1).bit_length()
    if spare > 0:
        a, b = (_signed_as(x, delay(m, x, spare, f"{name}_{n}")) for x, n in ((a, "a"), (b, "b")))
    terms = partial_products(m, a, b, name)
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
