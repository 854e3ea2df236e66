"""Adder trees of several columns at once, a register after every two levels."""

from __future__ import annotations

from amaranth import Module, Signal, Value, signed

LEVELS_PER_STAGE = 2


def tree_stages(terms: int) -> int:
    """Register stages, hence cycles, of a tree over ``terms`` (a power of two)."""
    return -(-(terms.bit_length() - 1) // LEVELS_PER_STAGE)


def add_stage(
    m: Module, columns: list[list[Value]], enable: Value, name: str, levels: int = LEVELS_PER_STAGE
) -> list[list[Value]]:
    """Add groups of ``2**levels`` neighbouring terms of every column into registers.

    ``enable`` loads the registers: idle cycles toggle nothing. Returns the shorter columns.
    """
    group = min(1 << levels, len(columns[0]))
    result: list[list[Value]] = []
    with m.If(enable):
        for c, terms in enumerate(columns):
            sums: list[Value] = []
            for i in range(0, len(terms), group):
                total = terms[i : i + group]
                while len(total) > 1:
                    total = [a + b for a, b in zip(total[::2], total[1::2], strict=True)]
                register = Signal(
                    signed(len(total[0])), name=f"{name}_{c}_{i // group}", reset_less=True
                )
                m.d.sync += register.eq(total[0])
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
