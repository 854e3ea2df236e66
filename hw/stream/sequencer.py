"""STREAM instructions: tokens, predication, commands to the read engines, retirement."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.burst import command_layout
from moesaic.hw.interfaces import InstructionPort, RouterState, instruction_layout
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

SEGMENTS = 16
"""Instructions whose data are under way at most."""
FETCHED_ENTRIES = 64
"""Predicated segments the matrix unit may be behind."""


def stream_command(arch: ArchConfig) -> data.StructLayout:
    """Layout of the commands to the weight ports' engines: wide enough for any STREAM."""
    port_word_bytes = arch.ring_read_bytes // arch.weight_ports
    beats_per_word = arch.ring_read_bytes // arch.line_bytes
    widths = {f.name: f.width for f in isa.FIELDS[isa.Opcode.STREAM]}
    return command_layout(
        widths["offset"] + port_word_bytes.bit_length() - 1,
        widths["words"] + beats_per_word.bit_length() - 1,
    )


class StreamSequencer(wiring.Component):
    """Executes STREAM instructions in order, one in three cycles, up to ``SEGMENTS`` at a time.

    Whether a predicated segment is fetched is decided when its command can go out, as late as
    possible: a routing that finishes before then saves the bandwidth. Tokens are given when all
    data of an instruction are in the ring; a skipped one gives them in its turn.

    Attributes
    ----------
    control
        Instructions and tokens; see ``InstructionPort``. ``working`` follows ``line``.
    router
        The last finished routing.
    command0, command1, ...
        The same commands for every port, each taken when its engine likes.
    fetched
        One bit per predicated segment, in order: whether its words are (or will be) in the ring.
    line, refused, segment
        Inputs: a line arrived; one is there that the ring has no room for; the last word of a
        command went into the ring.
    stop
        Start nothing and give no tokens any more. Only reset ends this state cleanly.
    pending
        A command is not yet with every engine.
    experts_fetched, experts_skipped, stream_wait_ring, stream_wait_routing
        Counter events.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        commands = {
            f"command{port}": Out(stream.Signature(stream_command(arch)))
            for port in range(arch.weight_ports)
        }
        super().__init__(
            {
                "control": In(InstructionPort()),
                "router": In(RouterState(arch)),
                **commands,
                "fetched": Out(stream.Signature(1)),
                "line": In(1),
                "refused": In(1),
                "segment": In(1),
                "stop": In(1),
                "pending": Out(1),
                "experts_fetched": Out(1),
                "experts_skipped": Out(1),
                "stream_wait_ring": Out(1),
                "stream_wait_routing": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, arch = self.control, self.arch
        layout = instruction_layout(isa.Opcode.STREAM)

        # The instruction in hand.
        current = Signal(layout)
        held, started, needs_none = Signal(), Signal(), Signal()
        settled, go = Signal(), Signal()
        arriving = data.View(layout, control.queue.payload[: layout.size])
        m.d.comb += control.queue.ready.eq(~held)
        m.d.sync += settled.eq(held & ~go)
        with m.If(go):
            m.d.sync += held.eq(0)
        with m.If(control.queue.ready):
            m.d.sync += [
                held.eq(control.queue.valid),
                started.eq(0),
                needs_none.eq(~arriving.wait.any()),
                current.eq(arriving),
            ]
        ready_to_start, tokens = Signal(), Signal()
        m.d.comb += [
            control.wait.eq(current.wait),
            control.want.eq(held & ~started & ~needs_none),
            tokens.eq(needs_none | control.granted),
            control.take.eq(held & ~started & tokens & ~self.stop),
            ready_to_start.eq(held & (started | tokens)),
        ]
        with m.If(control.take & ~go):
            m.d.sync += started.eq(1)

        # Fetch or skip: as of the cycle before, in which the instruction was here already if it
        # is ``settled``.
        known, skip, decidable = Signal(), Signal(), Signal()
        m.d.comb += known.eq(self.router.sequence == current.sequence)
        m.d.sync += [
            skip.eq(current.predicated & known & ~self.router.hit.bit_select(current.expert, 1)),
            decidable.eq(~current.predicated | known | current.speculate),
        ]

        # Commands: one register, taken by every port on its own.
        ports = arch.weight_ports
        command = Signal(stream_command(arch))
        waiting, taken = Signal(ports), Signal(ports)
        free = Signal()
        for port in range(ports):
            target = getattr(self, f"command{port}")
            m.d.comb += [
                target.valid.eq(waiting[port]),
                target.payload.eq(command),
                taken[port].eq(target.ready),
            ]
        m.d.comb += [free.eq(~(waiting & ~taken).any()), self.pending.eq(waiting.any())]
        m.d.sync += waiting.eq(waiting & ~taken)
        with m.If(self.stop):
            m.d.sync += waiting.eq(0)

        # In program order: which instructions are unfinished, and what the matrix unit must know.
        m.submodules.unfinished = unfinished = fifo.SyncFIFOBuffered(
            width=isa.UNIT_COUNT + 1, depth=SEGMENTS
        )
        m.submodules.outcomes = outcomes = fifo.SyncFIFOBuffered(width=1, depth=FETCHED_ENTRIES)
        m.d.comb += [
            go.eq(
                ready_to_start
                & settled
                & decidable
                & (skip | free)
                & unfinished.w_rdy
                & (~current.predicated | outcomes.w_rdy)
                & ~self.stop
            ),
            unfinished.w_en.eq(go),
            unfinished.w_data.eq(current.signal | (skip << isa.UNIT_COUNT)),
            outcomes.w_en.eq(go & current.predicated),
            outcomes.w_data.eq(~skip),
            self.experts_fetched.eq(outcomes.w_en & ~skip),
            self.experts_skipped.eq(outcomes.w_en & skip),
        ]
        port_word_log2 = (arch.ring_read_bytes // ports).bit_length() - 1
        beats_log2 = (arch.ring_read_bytes // arch.line_bytes).bit_length() - 1
        with m.If(go & ~skip):
            m.d.sync += [
                waiting.eq(~0),
                command.offset.eq(current.offset << port_word_log2),
                command.beats.eq(current.words << beats_log2),
            ]

        # Retirement.
        arrived = Signal(range(SEGMENTS + 2))
        skipped = unfinished.r_data[-1]
        m.d.comb += [
            unfinished.r_en.eq(unfinished.r_rdy & (skipped | arrived.any()) & ~self.stop),
        ]
        m.d.sync += [
            control.give.eq(unfinished.r_en),
            control.signal.eq(unfinished.r_data[:-1]),
            arrived.eq(arrived + self.segment - (unfinished.r_en & ~skipped)),
        ]

        m.d.comb += [
            self.fetched.valid.eq(outcomes.r_rdy),
            self.fetched.payload.eq(outcomes.r_data),
            outcomes.r_en.eq(self.fetched.ready),
            control.busy.eq(control.queue.valid | held | (unfinished.level != 0) | control.give),
            control.working.eq(self.line),
            control.wait_token.eq(held & ~started & ~tokens),
            control.stalled.eq(
                ~self.line & ((unfinished.level != 0) | (ready_to_start & ~decidable))
            ),
            self.stream_wait_ring.eq(control.stalled & self.refused),
            self.stream_wait_routing.eq(
                control.stalled & ~self.refused & (unfinished.level == 0) & ~self.pending
            ),
        ]
        return m
