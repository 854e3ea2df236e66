"""Two products in one multiplier: the borrow correction is exact for all operands.

Between the two halves that a SAT solver proves here on the gateware's own functions stands the
distributive law: the products of ``(w1 << 18) + w2`` are ``(w1 * x << 18) + w2 * x``, and so are
their sums.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth import Const, Elaboratable, Module, Signal, signed
from amaranth.back import verilog

from moesaic.hw.matrix.packed import FIELD_BITS, SEGMENT_ROWS, combine, separate
from moesaic.hw.matrix.stationary import less_borrow
from moesaic.hw.resources.synthesis import SynthesisError, run_yosys


class Combination(Elaboratable):
    """``good``: the loader's two parts, put together, are ``(w1 << 18) + w2``."""

    def __init__(self, borrow: bool = True) -> None:
        self.low, self.high = Signal(signed(8)), Signal(signed(8))
        self.good = Signal()
        self.inputs, self.borrow = (self.low, self.high), borrow

    def elaborate(self, platform: object) -> Module:
        m = Module()
        part = less_borrow(self.high, self.low[7] if self.borrow else Const(0))
        m.d.comb += self.good.eq(combine(self.low, part) == (self.high << FIELD_BITS) + self.low)
        return m


class Separation(Elaboratable):
    """``good``: fields taken apart from ``(high << 18) + low`` are ``low`` and ``high``.

    ``low`` has so many bits as a correct sum may have; one more must fail.
    """

    def __init__(self, low_bits: int = FIELD_BITS) -> None:
        self.low, self.high = Signal(signed(low_bits)), Signal(signed(FIELD_BITS))
        self.good = Signal()
        self.inputs = (self.low, self.high)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, high = separate(((self.high << FIELD_BITS) + self.low)[: 2 * FIELD_BITS])
        m.d.comb += self.good.eq((low == self.low) & (high == self.high))
        return m


def prove(claim: Combination | Separation, work: Path) -> None:
    text = verilog.convert(claim, ports=[*claim.inputs, claim.good], name="claim")
    run_yosys(text, "prep -top claim\nflatten\nsat -verify -prove good 1 claim\n", work, "claim")


def test_sums_of_a_segment_fit_their_field() -> None:
    largest = SEGMENT_ROWS * max(128 * 255, 128 * 128)
    assert largest < 1 << FIELD_BITS - 1
    assert 2 * largest >= 1 << FIELD_BITS - 1, "segments of twice the rows would fit: use them"


def test_weights_are_put_together_exactly(tmp_path: Path) -> None:
    prove(Combination(), tmp_path)


def test_fields_are_taken_apart_exactly(tmp_path: Path) -> None:
    prove(Separation(), tmp_path)


@pytest.mark.parametrize("claim", [Combination(borrow=False), Separation(FIELD_BITS + 1)])
def test_the_proofs_can_fail(claim: Combination | Separation, tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="proof did fail"):
        prove(claim, tmp_path)
