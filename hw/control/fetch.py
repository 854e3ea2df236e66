"""Instruction fetch: the program as a stream, read ahead of its use."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.read import ReadEngine
from moesaic.hw.interfaces import AxiRead, FaultPort, RawInstruction, WindowSettings
from moesaic.hw.memory.fifo import RamFifo
from moesaic.hw.memory.resize import Widen
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

BLOCK_INSTRUCTIONS = 8
"""Instructions per request: 256 bytes, an efficient burst."""
BUFFER_INSTRUCTIONS = 64
"""Instructions requested and not yet dispatched: at one every two cycles, 128 cycles of latency."""


class InstructionFetch(wiring.Component):
    """Reads the program window from its first byte as long as ``run`` is high.

    Room in the buffer is reserved before a request is made, so that data are always taken: the
    fetch never holds up the load unit on their common port.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    run
        Make requests.
    window
        The program window.
    instructions
        The program.
    exhausted
        All whole instructions of the window have been taken.
    axi, abort, idle, fault
        As of :class:`~moesaic.hw.axi.read.ReadEngine`.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "run": In(1),
                "window": In(WindowSettings()),
                "instructions": Out(stream.Signature(RawInstruction)),
                "exhausted": Out(1),
                "axi": Out(AxiRead(arch.data_port_bytes)),
                "abort": In(1),
                "idle": Out(1),
                "fault": Out(FaultPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bytes = self.arch.data_port_bytes
        beats_log2 = (isa.INSTRUCTION_BYTES // beat_bytes).bit_length() - 1
        m.submodules.engine = engine = ReadEngine(
            beat_bytes, beats_bits=12, max_burst=self.arch.max_burst
        )
        m.submodules.widen = widen = Widen(8 * beat_bytes, 8 * isa.INSTRUCTION_BYTES)
        m.submodules.buffer = buffer = RamFifo(8 * isa.INSTRUCTION_BYTES, BUFFER_INSTRUCTIONS)
        connect(m, engine.axi, flipped(self.axi))
        connect(m, flipped(self.window), engine.window)
        connect(m, widen.o, buffer.put)
        connect(m, buffer.take, flipped(self.instructions))
        m.d.comb += [
            widen.i.valid.eq(engine.data.valid),
            widen.i.payload.eq(engine.data.payload.data),
            engine.data.ready.eq(widen.i.ready),
            engine.abort.eq(self.abort),
            self.idle.eq(engine.idle),
            self.fault.window.eq(engine.fault.window),
            self.fault.bus.eq(engine.fault.bus),
        ]

        # What the next request is, is worked out in the cycle before: blocks are many cycles long.
        instruction_log2 = isa.INSTRUCTION_BYTES.bit_length() - 1
        total = self.window.size[instruction_log2:]
        requested, left = Signal.like(total), Signal.like(total)
        primed, known, none_left = Signal(), Signal(), Signal()
        reserved, room = Signal(range(BUFFER_INSTRUCTIONS + 1)), Signal()
        block = Signal(range(BLOCK_INSTRUCTIONS + 1))
        request, requested_one, taken = Signal(), Signal(), Signal()
        m.d.comb += [
            engine.command.valid.eq(self.run & known & room & ~none_left),
            engine.command.payload.offset.eq(requested << instruction_log2),
            engine.command.payload.beats.eq(block << beats_log2),
            request.eq(engine.command.valid & engine.command.ready),
            taken.eq(self.instructions.valid & self.instructions.ready),
        ]
        m.d.sync += [
            primed.eq(self.run),
            requested_one.eq(request),
            known.eq(primed & ~request & ~requested_one),
            none_left.eq(~left.any()),
            block.eq(Mux(left < BLOCK_INSTRUCTIONS, left, BLOCK_INSTRUCTIONS)),
            room.eq(reserved <= BUFFER_INSTRUCTIONS - BLOCK_INSTRUCTIONS),
            # A cycle late, which is early enough: `room` is read two cycles after a request.
            reserved.eq(reserved + Mux(requested_one, block, 0) - taken),
            self.exhausted.eq(self.run & known & none_left & (reserved == 0)),
        ]
        with m.If(~primed):
            m.d.sync += left.eq(total)
        with m.If(requested_one):
            m.d.sync += [requested.eq(requested + block), left.eq(left - block)]
        return m
