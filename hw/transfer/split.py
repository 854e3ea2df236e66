"""Which output port gets which part of a chunk, where there are several."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.arithmetic.tree import select
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import RESIDUAL_BITS


def route_layout() -> data.StructLayout:
    """A STORE's number of chunks, and whether they go through port 0 alone."""
    return data.StructLayout({"words": isa.width(isa.Opcode.STORE, "words"), "single": 1})


class ChunkSplitter(wiring.Component):
    """Hands chunks to the ports as their store says: a part to each at once, or all to port 0.

    A chunk waits for its store. All ports take their parts of a chunk together: their buffers make
    up for the pauses of each. Of a single store port 0 takes one part behind the other, the
    lowest first. A cycle is lost between two stores.

    Parameters
    ----------
    arch
        Sizes, with several output ports.

    Attributes
    ----------
    route
        Of each store in turn.
    chunks
        Chunks of int16 results.
    part0, part1, ...
        Parts for each port.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        bits = RESIDUAL_BITS * arch.lanes
        parts = {
            f"part{p}": Out(stream.Signature(bits // arch.output_ports))
            for p in range(arch.output_ports)
        }
        super().__init__(
            {
                "route": In(stream.Signature(route_layout())),
                "chunks": In(stream.Signature(bits)),
                **parts,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.arch.output_ports
        ports = [getattr(self, f"part{p}") for p in range(count)]
        first, route, chunks = ports[0], self.route, self.chunks
        together, alone = Signal(), Signal()
        words = Countdown(len(route.payload.words), "words")
        # Of the chunk, the part whose turn it is at port 0; always the lowest when all take theirs.
        part, last = Signal(range(count)), Signal()
        all_ready, leaves, steps = Signal(), Signal(), Signal()
        m.d.comb += [
            all_ready.eq(Cat(port.ready for port in ports).all()),
            chunks.ready.eq((together & all_ready) | (alone & last & first.ready)),
            leaves.eq(chunks.valid & chunks.ready),
            steps.eq(alone & chunks.valid & first.ready),
            route.ready.eq(~together & ~alone),
        ]
        with m.If(route.ready):
            m.d.sync += [
                together.eq(route.valid & ~route.payload.single),
                alone.eq(route.valid & route.payload.single),
                words.begin(route.payload.words),
            ]
        with m.Elif(leaves):
            m.d.sync += words.step()
            with m.If(words.last):
                m.d.sync += [together.eq(0), alone.eq(0)]
        with m.If(steps):
            m.d.sync += [part.eq(part + 1), last.eq(part == count - 2)]

        pieces = [chunks.payload.word_select(p, len(first.payload)) for p in range(count)]
        for port, piece in zip(ports[1:], pieces[1:], strict=True):
            m.d.comb += [
                port.valid.eq(chunks.valid & together & all_ready),
                port.payload.eq(piece),
            ]
        m.d.comb += [
            first.valid.eq(chunks.valid & (alone | (together & all_ready))),
            first.payload.eq(select(part, pieces)),
        ]
        return m
