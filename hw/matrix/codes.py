"""Ring words of tiles as words of int8 codes, where weights may have four bits."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import FEW_WEIGHT_BITS, WEIGHT_BITS


def code_layout(arch: ArchConfig) -> data.StructLayout:
    """``ring_read_bytes`` int8 codes, which beat of a tile they are, and whether the last."""
    return data.StructLayout(
        {
            "word": 8 * arch.ring_read_bytes,
            "beat": range(arch.tile_ring_words),
            "last": 1,
        }
    )


class TileCodes(wiring.Component):
    """One register between ring and array: a word of codes per cycle, latency 1 cycle.

    A word of four-bit codes stays at the input for two words of codes: the low halves of its bytes,
    then the high ones, extended by their signs. The choice is made in front of the register, so
    that neither the ring's output nor the array's first register has it in its way; and the next
    tile's first word waits here while the shadow tile is occupied, so that no cycle is lost.

    Parameters
    ----------
    arch
        Sizes, with ``four_bit_weights``.

    Attributes
    ----------
    i
        Ring words of tiles.
    halves
        The word at the input has four-bit codes.
    beat, last
        What belongs to the next word of codes, see :func:`code_layout`.
    entered
        High in a cycle in which a word of codes goes into the register.
    pending
        A word of codes is in the register in the next cycle.
    o
        Words of codes.
    """

    def __init__(self, arch: ArchConfig) -> None:
        layout = code_layout(arch)
        super().__init__(
            {
                "i": In(stream.Signature(8 * arch.ring_read_bytes)),
                "halves": In(1),
                "beat": In(layout["beat"].shape),
                "last": In(1),
                "entered": Out(1),
                "pending": Out(1),
                "o": Out(stream.Signature(layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(self.o.payload.shape(), reset_less=True)
        some, second, free = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~some | self.o.ready),
            self.i.ready.eq(free & (~self.halves | second)),
            self.entered.eq(self.i.valid & free),
            self.pending.eq(self.entered | (some & ~self.o.ready)),
            self.o.valid.eq(some),
            self.o.payload.eq(held),
        ]
        m.d.sync += [
            some.eq(self.pending),
            second.eq(second ^ (self.entered & self.halves)),
        ]
        # What is there while no word is offered does no harm.
        with m.If(free):
            m.d.sync += [
                held.word.eq(self._codes(second)),
                held.beat.eq(self.beat),
                held.last.eq(self.last),
            ]
        return m

    def _codes(self, second: Value) -> Value:
        """The codes that the register takes of the word at the input."""
        codes = []
        for start in range(0, len(self.i.payload), WEIGHT_BITS):
            byte = self.i.payload[start : start + WEIGHT_BITS]
            half = Mux(second, byte[FEW_WEIGHT_BITS:], byte[:FEW_WEIGHT_BITS])
            sign = half[-1].replicate(WEIGHT_BITS - FEW_WEIGHT_BITS)
            codes.append(Mux(self.halves, Cat(half, sign), byte))
        return Cat(codes)
