"""The end of the lane pipeline: a FIFO with credits, and the unit's three destinations."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.interfaces import ActivationWrite, logit_layout
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.hw.vector.operation import output_layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import Destination
from moesaic.spec.formats import ADDEND_BITS, LOGIT_BITS, RESIDUAL_BITS
from moesaic.spec.isa import UNIT_COUNT

CHUNK_BITS = max(LOGIT_BITS, ADDEND_BITS, 8 + RESIDUAL_BITS)
"""Bits of a lane's result: a logit, an addend, or int8 result, low and high plane."""


def _pair_ports(arch: ArchConfig) -> dict[str, In]:
    return {
        "upper": In(data.ArrayLayout(CHUNK_BITS, arch.lanes)),
        "lower_write": In(1),
        "upper_write": In(1),
    }


class OutputStage(wiring.Component):
    """Takes what the pipeline cannot hold back, and hands it on when the destination is ready.

    A chunk reserves its place before it enters the pipeline; ``room`` says that there is one. So
    the pipeline never stops. Routes (``output_layout``) and data are put separately, each in
    order. A chunk can leave two cycles after its data are put (three to ``logits`` and
    ``output``, which are skid buffers); activation words with planes take
    a cycle for each plane, and one for an int8 result in front of them. With an instruction's last
    chunk its tokens are given, in program order.

    Attributes
    ----------
    room, reserve
        Places.
    route, route_put, chunk, chunk_put
        The two halves of a chunk.
    upper, lower_write, upper_write
        With ``chunk_pairs``: the other chunk of its pair, and which of them comes now; ``put``
        with the last one.
    activation_write, logits, output
        Destinations.
    give, signal
        Tokens, one cycle after the last chunk left, perhaps into its skid buffer: it needs no
        token to be found in a stream.
    """

    DEPTH = 32

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "room": Out(1, init=1),
                "reserve": In(1),
                "route": In(output_layout(arch)),
                "route_put": In(1),
                "chunk": In(data.ArrayLayout(CHUNK_BITS, arch.lanes)),
                "chunk_put": In(1),
                **(_pair_ports(arch) if arch.chunk_pairs else {}),
                "activation_write": Out(ActivationWrite(arch)),
                "logits": Out(stream.Signature(logit_layout(arch))),
                "output": Out(stream.Signature(RESIDUAL_BITS * arch.lanes)),
                "give": Out(1),
                "signal": Out(UNIT_COUNT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        route_bits = output_layout(arch).size
        chunk_bits = CHUNK_BITS * arch.lanes
        halves = 2 if arch.chunk_pairs else 1
        m.submodules.routes = routes = Memory(shape=unsigned(route_bits), depth=self.DEPTH, init=[])
        m.submodules.chunks = chunks = Memory(
            shape=unsigned(halves * chunk_bits), depth=self.DEPTH, init=[]
        )
        route_write, chunk_write = routes.write_port(), chunks.write_port(granularity=chunk_bits)
        route_read, chunk_read = routes.read_port(domain="comb"), chunks.read_port(domain="comb")
        route_at, chunk_at = Signal(range(self.DEPTH)), Signal(range(self.DEPTH))
        read_at = Signal(range(self.DEPTH))
        reserved = Signal(range(self.DEPTH + 1))
        next_read = Signal(range(self.DEPTH), init=1)
        some, fetch, fetched, reserving = Signal(), Signal(), Signal(), Signal()
        # That fewer are reserved than there are places, and than one or two less.
        fewer = [reserved < self.DEPTH - less for less in range(3)]
        below = [Mux(reserving, more, same) for same, more in zip(fewer, fewer[1:], strict=False)]
        m.d.comb += [
            route_write.addr.eq(route_at),
            route_write.data.eq(self.route),
            route_write.en.eq(self.route_put),
            chunk_write.addr.eq(chunk_at),
            chunk_write.data.eq(Cat(self.chunk, self.upper) if halves == 2 else self.chunk),
            chunk_write.en.eq(
                Cat(self.lower_write, self.upper_write) if halves == 2 else self.chunk_put
            ),
            route_read.addr.eq(read_at),
            chunk_read.addr.eq(read_at),
        ]
        m.d.sync += [
            route_at.eq(route_at + self.route_put),
            chunk_at.eq(chunk_at + self.chunk_put),
            # Fetching hangs on much: it frees a place a cycle later, and whether the last chunk is
            # fetched is seen in the addresses.
            fetched.eq(fetch),
            # A place that is reserved comes late too: it is counted a cycle later.
            reserving.eq(self.reserve),
            reserved.eq(reserved + reserving - fetched),
            self.room.eq(fetched | below[1] | (below[0] & ~self.reserve)),
            some.eq(self.chunk_put | (some & (~fetch | (next_read != chunk_at)))),
        ]

        layout = logit_layout(arch)
        m.submodules.logits_skid = logits = SkidBuffer(layout["logits"].shape)
        # The flag beside them has a buffer of its own, for the router decides on it.
        m.submodules.last_skid = last = SkidBuffer(1)
        m.submodules.output_skid = output = SkidBuffer(RESIDUAL_BITS * arch.lanes)
        m.d.comb += [
            self.logits.valid.eq(last.o.valid),
            self.logits.payload.logits.eq(logits.o.payload),
            self.logits.payload.last.eq(last.o.payload),
            logits.o.ready.eq(self.logits.ready),
            last.o.ready.eq(self.logits.ready),
            last.i.valid.eq(logits.i.valid),
        ]
        connect(m, output.o, flipped(self.output))

        # The head waits in registers, so that the ports do not hang on the memory's read time.
        # Of `to`, the bit of the head's destination is set.
        loaded, done, last_part = Signal(), Signal(), Signal()
        to = Signal(len(Destination))
        # That an activation word is there and ends its chunk: `to` reaches all of the scratchpad.
        last_word = Signal()
        # The inverse of two bits of `to`, for the many bits of a chunk: what loads them shares no
        # gate with what decides on fetching.
        elsewhere = {d: Signal(init=1) for d in (Destination.LOGITS, Destination.OUTPUT)}
        route = Signal(output_layout(arch), reset_less=True)
        chunk = Signal(data.ArrayLayout(CHUNK_BITS, halves * arch.lanes), reset_less=True)
        part = Signal(2)  # 0 int8, 1 high plane, 2 low plane
        address = Signal.like(route.address, reset_less=True)
        m.d.comb += fetch.eq(some & (~loaded | done))
        coming = data.View(output_layout(arch), route_read.data)
        with m.If(fetch):
            m.d.sync += [
                loaded.eq(1),
                read_at.eq(next_read),
                next_read.eq(next_read + 1),
                *(to[d].eq(coming.destination == d) for d in Destination),
                *(bit.eq(coming.destination != d) for d, bit in elsewhere.items()),
                last_word.eq((coming.destination == Destination.ACTIVATION) & ~coming.wide),
            ]
        with m.Elif(done):
            m.d.sync += [loaded.eq(0), to.eq(0), last_word.eq(0)]
            m.d.sync += [bit.eq(1) for bit in elsewhere.values()]

        write = self.activation_write
        int8 = Cat(lane[0:8] for lane in chunk)
        low = Cat(lane[8:16] for lane in chunk)
        high = Cat(lane[16:24] for lane in chunk)
        copies = arch.depth // arch.lanes
        word = Signal(halves * 8 * arch.lanes)
        with m.Switch(part):
            with m.Case(0):
                m.d.comb += word.eq(int8)
            with m.Case(1):
                m.d.comb += word.eq(high)
            with m.Default():
                m.d.comb += word.eq(low)
        for copy in range(copies):
            enable = write.mask[copy * arch.lanes : (copy + 1) * arch.lanes]
            # A select of no bits would still be a signal of one.
            chosen = (route.select == copy) | (copies == 1)
            if halves == 2:
                chosen |= route.pair & (route.select == copy ^ 1)
            m.d.comb += enable.eq(Mux(chosen, -1, 0))
        written_data: Value = word.replicate(copies)
        if halves == 2:  # a chunk alone goes to any place of the word
            lower, upper = word[: 8 * arch.lanes], word[8 * arch.lanes :]
            written_data = Cat(lower, Mux(route.pair, upper, lower)).replicate(copies // 2)
        m.d.comb += [
            write.address.eq(address),
            write.data.eq(written_data),
            last.i.payload.eq(route.row_last),
            output.i.payload.eq(Cat(chunk[i][:RESIDUAL_BITS] for i in range(arch.lanes))),
        ]
        for i in range(arch.lanes):
            m.d.comb += logits.i.payload[i].eq(chunk[i])
        m.d.comb += [
            write.valid.eq(to[Destination.ACTIVATION]),
            logits.i.valid.eq(to[Destination.LOGITS]),
            output.i.valid.eq(to[Destination.OUTPUT]),
            done.eq(
                to[Destination.NONE]
                | (last_word & write.ready)
                | (logits.i.valid & logits.i.ready)
                | (output.i.valid & output.i.ready)
            ),
        ]
        # Loaded as long as nothing is there that stays: it does no harm.
        with m.If(
            ~loaded
            | to[Destination.NONE]
            | (last_word & write.ready)
            | (~elsewhere[Destination.LOGITS] & logits.i.ready)
            | (~elsewhere[Destination.OUTPUT] & output.i.ready)
        ):
            m.d.sync += [route.eq(route_read.data), chunk.eq(chunk_read.data)]
        written = write.valid & write.ready
        with m.If(written & ~last_part):
            m.d.sync += last_word.eq(part == 1)
        with m.If(~loaded | written | ~write.valid):
            m.d.sync += [
                part.eq(coming.planes_only),
                last_part.eq(~coming.wide),
                address.eq(coming.address),
            ]
            with m.If(written & ~last_part):
                m.d.sync += [
                    part.eq(part + 1),
                    last_part.eq(part == 1),
                    address.eq(address + route.plane),
                ]
        m.d.sync += [
            self.give.eq(done & route.last),
            self.signal.eq(route.signal),
        ]
        return m
