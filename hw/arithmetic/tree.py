"""Trees: multiplexers, and adders of several columns at once with a register after every level.

Sums of two take one LUT and one carry per bit, whatever the tool; sums of three or four do not
everywhere, and they are slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Module, Mux, Signal, Value, signed


def select(index: Value, choices: Sequence[Value]) -> Value:
    """``choices[index]`` of a power of two of them, without a register.

    An array of wide words would simulate slowly, and a switch be decoded first.
    """
    bit = 0
    while len(choices) > 1:
        choices = [
            Mux(index[bit], high, low)
            for low, high in zip(choices[::2], choices[1::2], strict=True)
        ]
        bit += 1
    return choices[0]


def tree_stages(terms: int) -> int:
    """Register stages, hence cycles, of a tree over ``terms`` (a power of two)."""
    return terms.bit_length() - 1


def add_stage(m: Module, columns: list[list[Value]], enable: Value, name: str) -> list[list[Value]]:
    """Add neighbouring terms of every column into registers; columns are half as long after.

    ``enable`` loads the registers: idle cycles toggle nothing.
    """
    result: list[list[Value]] = []
    with m.If(enable):
        for c, terms in enumerate(columns):
            sums: list[Value] = []
            for i in range(0, len(terms), 2):
                total = terms[i] + terms[i + 1]
                register = Signal(signed(len(total)), name=f"{name}_{c}_{i // 2}", reset_less=True)
                m.d.sync += register.eq(total)
                sums.append(register)
            result.append(sums)
    return result


def add_tree(
    m: Module, columns: list[list[Value]], valid: Value, name: str
) -> tuple[list[Value], Value]:
    """Sum every column completely; ``tree_stages`` cycles. Returns (sums, delayed ``valid``)."""
    stage = 0
    while len(columns[0]) > 1:
        columns = add_stage(m, columns, valid, f"{name}{stage}")
        following = Signal(name=f"{name}{stage}_valid")
        m.d.sync += following.eq(valid)
        valid = following
        stage += 1
    return [terms[0] for terms in columns], valid
