"""Ring words of tiles as words of int8 codes, where weights may have four bits."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import FEW_WEIGHT_BITS, WEIGHT_BITS


def code_layout(arch: ArchConfig) -> data.StructLayout:
    """``ring_read_bytes`` int8 codes, and which beat of a tile they are."""
    return data.StructLayout(
        {"word": 8 * arch.ring_read_bytes, "beat": range(arch.tile_ring_words)}
    )


_KEEP = {"keep": "true"}
_BYTES_AT_ONCE = 64
"""Bytes whose choice of a half hangs on registers of their own."""


class TileCodes(wiring.Component):
    """One register between ring and array: a word of codes per cycle, latency 1 cycle.

    A word of four-bit codes stays at the input for two words of codes: the low halves of its bytes,
    then the high ones, extended by their signs. The choice is made in front of the register, so
    that neither the ring's output nor the array's first register has it in its way; and the next
    tile's first word waits here while the shadow tile is occupied, so that no cycle is lost. All
    that decides something within a cycle is a register, and those that reach the whole word are
    there several times: they are equal, and attributes tell the tools to keep them apart.

    Parameters
    ----------
    arch
        Sizes, with ``four_bit_weights``.

    Attributes
    ----------
    i
        Ring words of tiles.
    halves
        The word at the input has four-bit codes; settled two cycles before it is valid.
    beat, last
        Of the next word of codes: see :func:`code_layout`; it is a tile's last one.
    entered
        High in a cycle in which a word of codes goes into the register.
    ready_next
        Whether ``o.ready`` is high in the next cycle.
    o, final
        Words of codes; the one that is there is a tile's last.
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
                "ready_next": In(1),
                "final": Out(1),
                "o": Out(stream.Signature(layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(self.o.payload.shape(), reset_less=True)
        some, pending, free = Signal(), Signal(), Signal()
        enable = Signal(init=1, attrs=_KEEP)  # as `free`, for the whole word
        # Of a word of four-bit codes, which half is next; of another one, neither.
        first, second, second_next = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~some | self.o.ready),
            self.i.ready.eq(free & ~first),
            self.entered.eq(self.i.valid & free),
            pending.eq(self.entered | (some & ~self.o.ready)),
            second_next.eq(second ^ (self.entered & self.halves)),
            self.o.valid.eq(some),
            self.o.payload.eq(held),
        ]
        m.d.sync += [
            some.eq(pending),
            enable.eq(~pending | self.ready_next),
            self.final.eq((self.entered & self.last) | (self.final & ~self.o.ready)),
            second.eq(second_next),
            first.eq(self.halves & ~second_next),
        ]
        codes: list[Value] = []
        for start in range(0, len(self.i.payload), WEIGHT_BITS * _BYTES_AT_ONCE):
            part = self.i.payload[start : start + WEIGHT_BITS * _BYTES_AT_ONCE]
            number = len(codes)
            low = Signal(name=f"first_{number}", attrs=_KEEP)
            high = Signal(name=f"second_{number}", attrs=_KEEP)
            m.d.sync += [low.eq(self.halves & ~second_next), high.eq(second_next)]
            codes.append(_codes(part, low, high))
        # What is there while no word is offered does no harm.
        with m.If(enable):
            m.d.sync += [held.word.eq(Cat(codes)), held.beat.eq(self.beat)]
        return m


def _codes(word: Value, low: Value, high: Value) -> Value:
    """The codes in the ``low`` or the ``high`` halves of bytes, or the bytes themselves.

    Bit by bit, for the least logic: that of a sign is the code's own or that of the lower half, and
    the bits below take what lies above them or not.
    """
    codes: list[Value] = []
    sign = FEW_WEIGHT_BITS - 1
    for start in range(0, len(word), WEIGHT_BITS):
        byte = word[start : start + WEIGHT_BITS]
        codes.append(Mux(high, byte[FEW_WEIGHT_BITS:], byte[:FEW_WEIGHT_BITS]))
        for bit in byte[FEW_WEIGHT_BITS:-1]:
            codes.append(Mux(low, byte[sign], Mux(high, byte[-1], bit)))
        codes.append(Mux(low, byte[sign], byte[-1]))
    return Cat(codes)
