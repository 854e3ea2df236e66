"""Beats of P ports to ring words, with the ports free to run apart."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.read import beat_layout
from moesaic.hw.memory.fifo import RamFifo
from moesaic.hw.memory.resize import Widen
from moesaic.spec.arch import ArchConfig

SKEW_BEATS = 64
"""How far one port may run ahead of another. A line needs a beat from every port: without slack,
the pauses of all ports would add up."""


class LineAssembler(wiring.Component):
    """Takes one beat of every port per cycle (a line); ``ring_read_bytes`` of lines are a word.

    Port i holds bytes ``i * weight_port_bytes ...`` of a line; the first line is the lowest part
    of its word. One line per cycle.

    Attributes
    ----------
    beats0, beats1, ...
        Streams of beats. The ``last`` bit must be at the same beat of every port.
    word
        Assembled ring words.
    line, refused
        High in a cycle in which a line was taken, or completes a word that nobody takes.
    segment
        High in a cycle in which the word on ``word`` is transferred and ends a command.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        beats = {
            f"beats{port}": In(stream.Signature(beat_layout(arch.weight_port_bytes)))
            for port in range(arch.weight_ports)
        }
        super().__init__(
            {
                **beats,
                "word": Out(stream.Signature(8 * arch.ring_read_bytes)),
                "line": Out(1),
                "refused": Out(1),
                "segment": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        port_bits = 8 * arch.weight_port_bytes + 1
        heads, last = [], Signal()
        for port in range(arch.weight_ports):
            m.submodules[f"skew{port}"] = fifo = RamFifo(port_bits, SKEW_BEATS)
            beats = getattr(self, f"beats{port}")
            m.d.comb += [
                fifo.put.valid.eq(beats.valid),
                fifo.put.payload.eq(Cat(beats.payload.data, beats.payload.last)),
                beats.ready.eq(fifo.put.ready),
                fifo.take.ready.eq(self.line),
            ]
            heads.append(fifo.take)
        m.d.comb += last.eq(heads[0].payload[-1])

        m.submodules.widen = widen = Widen(8 * arch.line_bytes, 8 * arch.ring_read_bytes)
        wiring.connect(m, widen.o, wiring.flipped(self.word))
        m.d.comb += [
            widen.i.valid.eq(Cat(head.valid for head in heads).all()),
            widen.i.payload.eq(Cat(head.payload[:-1] for head in heads)),
            self.line.eq(widen.i.valid & widen.i.ready),
            self.refused.eq(widen.i.valid & ~widen.i.ready),
            self.segment.eq(self.word.valid & self.word.ready & last),
        ]
        return m
