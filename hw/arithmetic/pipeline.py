"""Delay lines, adder trees and look-up tables: the plumbing of fixed-latency pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Module, Mux, Shape, Signal, Value, ValueCastable, unsigned
from amaranth.lib.memory import Memory


def taps(
    m: Module,
    value: Value | ValueCastable,
    cycles: int,
    name: str,
    *,
    control: bool = False,
) -> list[Value]:
    """``value`` now and as it was 1, 2, ... ``cycles`` cycles ago.

    ``control`` values are 0 after reset; data values are not reset, which lets them map to
    shift-register primitives.
    """
    results = [Value.cast(value)]
    for cycle in range(cycles):
        shape = results[-1].shape()
        register = Signal(shape, name=f"{name}_d{cycle + 1}", reset_less=not control)
        m.d.sync += register.eq(results[-1])
        results.append(register)
    return results


def delay(
    m: Module,
    value: Value | ValueCastable,
    cycles: int,
    name: str,
    *,
    control: bool = False,
) -> Value:
    """``value`` as it was ``cycles`` cycles ago; see :func:`taps`."""
    return taps(m, value, cycles, name, control=control)[-1]


def tree_latency(terms: int) -> int:
    """Cycles of :func:`add_tree` over ``terms`` values."""
    return max(1, -(-(terms - 1).bit_length() // 2))


def add_tree(m: Module, values: Sequence[Value], name: str) -> Value:
    """The sum of ``values``, :func:`tree_latency` cycles later: a register every two levels."""
    terms, stage = list(values), 0
    while stage == 0 or len(terms) > 1:
        sums: list[Value] = []
        for start in range(0, len(terms), 4):
            total = sum(terms[start + 1 : start + 4], start=terms[start])
            shape = Shape.cast(total.shape())
            register = Signal(shape, name=f"{name}{stage}_{start // 4}", reset_less=True)
            m.d.sync += register.eq(total)
            sums.append(register)
        terms, stage = sums, stage + 1
    return terms[0]


def look_up(
    m: Module,
    table: Sequence[int],
    addresses: Sequence[Value],
    width: int,
    name: str,
    *,
    registered: bool = True,
) -> list[Value]:
    """``table[address]`` of every address; entries are unsigned ``width`` bits.

    One cycle later, or at once if not ``registered``. One memory with a port per address: the tools
    copy it as often as the ports need.
    """
    memory = Memory(shape=unsigned(width), depth=len(table), init=table)
    m.submodules[name] = memory
    results: list[Value] = []
    for address in addresses:
        port = memory.read_port(domain="sync" if registered else "comb")
        m.d.comb += port.addr.eq(address)
        if registered:
            m.d.comb += port.en.eq(1)
        results.append(Value.cast(port.data))
    return results


def clamp(value: Value, bits: int) -> Value:
    """Signed ``value`` saturated to ``bits`` bits, without a register."""
    if len(value) <= bits:
        return value
    high = value[bits - 1 :]
    fits = high.all() | ~high.any()
    sign = value[-1]
    limit = Cat((~sign).replicate(bits - 1), sign).as_signed()
    return Mux(fits, value[:bits].as_signed(), limit)


def round_half(value: Value) -> Value:
    """Drop the lowest bit of ``value``, rounding half up: the last step of every shift."""
    return (value >> 1) + value[0]
