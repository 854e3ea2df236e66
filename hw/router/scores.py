"""What experts are chosen by: their logits, or corrected sigmoids of those."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import clamp, delay, taps
from moesaic.hw.interfaces import logit_layout
from moesaic.hw.router.powers import Powers
from moesaic.hw.router.sigmoid import Sigmoid
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import (
    CORRECTION_BITS,
    LOGIT_BITS,
    MULTIPLIER_BITS,
    SHIFT_BITS,
)
from moesaic.spec.isa import Opcode

_UNDER_WAY = 32
"""Scores between the logit and the chunk that they go to; more than the pipeline is long."""


class Scores(wiring.Component):
    """Logits pass as they are, in no cycle; or with ``corrected`` as ``semantics.sigmoid_fine``
    plus the correction of the expert, one per cycle.

    The first token of an instruction with ``corrected`` is none: it holds the corrections, which
    go no further.

    Attributes
    ----------
    logits
        Chunks of ``lanes`` logits in column order.
    keys
        The same of what is chosen by.
    corrected, experts, multiplier, shift
        Of the instruction; stable while tokens are inside.
    begin
        The next token holds corrections, if there are any.
    expert, correction
        The correction of an expert, one cycle later.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "logits": In(stream.Signature(logit_layout(arch))),
                "keys": Out(stream.Signature(logit_layout(arch))),
                "corrected": In(1),
                "experts": In(isa.width(Opcode.ROUTE, "experts")),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "begin": In(1),
                "expert": In(range(arch.router_slots)),
                "correction": Out(signed(CORRECTION_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch, lanes = self.arch, self.arch.lanes
        slots = range(arch.router_slots)
        memory = Memory(shape=signed(CORRECTION_BITS), depth=len(slots), init=())
        m.submodules.corrections = memory
        write, read, other = memory.write_port(), memory.read_port(), memory.read_port()
        m.d.comb += [
            other.en.eq(1),
            other.addr.eq(self.expert),
            self.correction.eq(other.data),
        ]

        # A chunk that is taken apart, a logit per cycle, as room behind allows.
        chunk = Signal(lanes * LOGIT_BITS, reset_less=True)
        held, storing = Signal(), Signal()
        lane = Signal(range(max(2, lanes)))
        expert = Signal(slots)
        last_expert = Signal(len(self.experts))
        m.d.sync += last_expert.eq(self.experts - 1)
        # Without the one that entered a cycle ago.
        under_way = Signal(range(_UNDER_WAY + 1))
        room = Signal()
        step, leave = Signal(), Signal()
        ends_chunk, ends_token = Signal(), Signal()
        m.d.comb += [
            step.eq(held & (storing | room)),
            ends_token.eq(expert == last_expert),
            ends_chunk.eq(ends_token | (lane == lanes - 1)),
            self.logits.ready.eq(Mux(self.corrected, ~held, self.keys.ready)),
        ]
        # While none is held, whatever comes is taken: no `valid` reaches the wide word.
        with m.If(~held):
            m.d.sync += [
                chunk.eq(Cat(self.logits.payload.logits)),
                held.eq(self.corrected & self.logits.valid),
                lane.eq(0),
            ]
        with m.If(step):
            m.d.sync += [
                chunk.eq(chunk >> LOGIT_BITS),
                held.eq(~ends_chunk),
                lane.eq(lane + 1),
                expert.eq(Mux(ends_token, 0, expert + 1)),
            ]
            with m.If(ends_token):
                m.d.sync += storing.eq(0)
        with m.If(self.begin):
            m.d.sync += [storing.eq(self.corrected), expert.eq(0)]
        logit = chunk[:LOGIT_BITS].as_signed()
        m.d.comb += [
            write.en.eq(step & storing),
            write.addr.eq(expert),
            write.data.eq(clamp(logit, CORRECTION_BITS)),
        ]

        # Its sigmoid and, beside it, the correction.
        m.submodules.powers = powers = Powers(arch, 1)
        m.submodules.sigmoid = sigmoid = Sigmoid()
        distance = Signal(LOGIT_BITS, reset_less=True)
        enter = Signal()
        latency = 1 + Powers.LATENCY + Sigmoid.LATENCY
        m.d.comb += [
            enter.eq(step & ~storing),
            powers.distance[0].eq(distance),
            powers.present.eq(1),
            powers.multiplier.eq(self.multiplier),
            powers.shift.eq(self.shift),
            sigmoid.power.eq(powers.power[0]),
            sigmoid.negative.eq(delay(m, logit[-1], 1 + Powers.LATENCY, "negative")),
            read.en.eq(1),
            read.addr.eq(delay(m, expert, latency - 1, "corrected_expert")),
        ]
        m.d.sync += distance.eq(Mux(logit[-1], -logit, logit))
        key = Signal(signed(LOGIT_BITS), reset_less=True)
        m.d.sync += key.eq(read.data + sigmoid.value)

        # Keys wait for their chunk to be taken.
        m.submodules.waiting = waiting = fifo.SyncFIFOBuffered(
            width=LOGIT_BITS + 2, depth=_UNDER_WAY
        )
        entered = taps(m, enter, latency + 1, "enter", control=True)
        ends = delay(m, Cat(ends_chunk, ends_token), latency + 1, "ends")
        gathered = Signal(lanes * LOGIT_BITS, reset_less=True)
        place = Signal(range(max(2, lanes)))
        full, ends_keys = Signal(), Signal(reset_less=True)
        m.d.comb += [
            waiting.w_data.eq(Cat(key, ends)),
            waiting.w_en.eq(entered[-1]),
            waiting.r_en.eq(~full),
            leave.eq(waiting.r_rdy & ~full),
        ]
        # Whether one enters comes late in the cycle: this one and the one before are taken for two.
        m.d.sync += [
            under_way.eq(under_way + entered[1] - leave),
            room.eq(under_way < _UNDER_WAY - 2),
        ]
        # Until its key is there, a place takes whatever comes: no `leave` reaches the wide word.
        for number in range(lanes):
            with m.If(~full & (place == number)):
                part = gathered[number * LOGIT_BITS : (number + 1) * LOGIT_BITS]
                m.d.sync += part.eq(waiting.r_data[:LOGIT_BITS])
        with m.If(leave):
            m.d.sync += [
                full.eq(waiting.r_data[LOGIT_BITS]),
                ends_keys.eq(waiting.r_data[LOGIT_BITS + 1]),
                place.eq(Mux(waiting.r_data[LOGIT_BITS], 0, place + 1)),
            ]
        with m.If(full & self.keys.ready):
            m.d.sync += full.eq(0)

        m.d.comb += [
            self.keys.valid.eq(Mux(self.corrected, full, self.logits.valid)),
            self.keys.payload.eq(self.logits.payload),
        ]
        with m.If(self.corrected):
            m.d.comb += [
                Cat(self.keys.payload.logits).eq(gathered),
                self.keys.payload.last.eq(ends_keys),
            ]
        return m


CORRECTED_LATENCY = 1 + Powers.LATENCY + Sigmoid.LATENCY + 6
"""Cycles that a token's last score is behind its logit, about."""
