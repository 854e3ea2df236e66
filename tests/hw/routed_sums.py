"""A small circuit to place and route."""

from __future__ import annotations

from amaranth import Elaboratable, Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.resources.hierarchy import Block
from moesaic.hw.verilog import to_verilog


class Sums(wiring.Component):
    """``count`` additions of 16 bits behind each other, from inputs to outputs.

    An input that is not used and an output that only counts are there to be lost.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(
            {
                "a": In(unsigned(16)),
                "b": In(unsigned(16)),
                "unused": In(signed(3)),
                "total": Out(unsigned(16)),
                "low": Out(1),
                "held": Out(unsigned(4)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = self.a
        for step in range(self.count):
            following = Signal(16, name=f"step{step}")
            m.d.comb += following.eq((value ^ (self.b << 1)) + self.b)
            value = following
        m.d.comb += [self.total.eq(value), self.low.eq(self.a[0])]
        m.d.sync += self.held.eq(self.held + 1)
        return m


def block(design: Elaboratable, name: str = "sums") -> Block:
    return Block(name, name, to_verilog(design, name), ())
