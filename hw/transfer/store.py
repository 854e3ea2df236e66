"""The store unit: results of the vector unit to external memory."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.write import WriteEngine
from moesaic.hw.interfaces import AxiWrite, FaultPort, InstructionPort, WindowSettings
from moesaic.hw.transfer.frontend import TransferFrontend
from moesaic.hw.transfer.resize import Narrow
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

JOBS = 4


class StoreUnit(wiring.Component):
    """Executes STORE: the next ``words`` chunks of ``output`` to byte ``offset`` of the window.

    A chunk has ``2 * lanes`` bytes. Chunks may come before their instruction. Up to four stores
    wait for their responses; each gives its tokens the cycle after its last response. One beat
    per cycle.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    control
        Instructions and tokens.
    axi
        Write channels of the data port.
    window
        The OUTPUT window.
    output
        Chunks of int16 results, from the vector unit.
    beat, abort, idle, fault
        As of :class:`~moesaic.hw.axi.write.WriteEngine`.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "control": In(InstructionPort()),
                "axi": Out(AxiWrite(arch.data_port_bytes)),
                "window": In(WindowSettings()),
                "output": In(stream.Signature(16 * arch.lanes)),
                "beat": Out(1),
                "abort": In(1),
                "idle": Out(1),
                "fault": Out(FaultPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bytes = self.arch.data_port_bytes
        beats_per_word = 2 * self.arch.lanes // beat_bytes
        word_bits = isa.positions(isa.Opcode.STORE)["words"][1]

        m.submodules.front = front = TransferFrontend(isa.Opcode.STORE)
        m.submodules.engine = engine = WriteEngine(beat_bytes, beats_bits=word_bits + 7)
        m.submodules.narrow = narrow = Narrow(16 * self.arch.lanes, 8 * beat_bytes)
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=isa.UNIT_COUNT, depth=JOBS)
        connect(m, engine.axi, flipped(self.axi))
        connect(m, flipped(self.window), engine.window)
        connect(m, flipped(self.control.queue), front.queue)
        connect(m, flipped(self.output), narrow.i)
        connect(m, narrow.o, engine.data)
        store = front.started.payload
        m.d.comb += [
            self.control.wait.eq(front.wait),
            self.control.take.eq(front.take),
            front.granted.eq(self.control.granted),
            engine.abort.eq(self.abort),
            self.idle.eq(engine.idle),
            self.beat.eq(engine.beat),
            self.fault.window.eq(engine.fault.window),
            self.fault.bus.eq(engine.fault.bus),
            engine.command.valid.eq(front.started.valid & jobs.w_rdy),
            engine.command.payload.offset.eq(store.offset),
            engine.command.payload.beats.eq(store.words << beats_per_word.bit_length() - 1),
            front.started.ready.eq(engine.command.ready & jobs.w_rdy),
            jobs.w_en.eq(engine.command.valid & engine.command.ready),
            jobs.w_data.eq(store.signal),
            jobs.r_en.eq(engine.done),
        ]
        m.d.sync += [self.control.give.eq(engine.done), self.control.signal.eq(jobs.r_data)]

        under_way = Signal()
        m.d.comb += [
            under_way.eq(jobs.level != 0),
            self.control.busy.eq(front.holding | under_way | self.control.give),
            self.control.working.eq(engine.beat),
            self.control.stalled.eq(under_way & ~engine.beat),
            self.control.wait_token.eq(front.lacking & ~under_way),
        ]
        return m
