"""The store unit: results of the vector unit to external memory."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.write import WriteEngine
from moesaic.hw.interfaces import AxiWrite, FaultPort, InstructionPort, WindowSettings
from moesaic.hw.memory.resize import Narrow
from moesaic.hw.transfer.frontend import TransferFrontend
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import RESIDUAL_BITS

JOBS = 4


class StoreUnit(wiring.Component):
    """Executes STORE: the next ``words`` chunks of ``output`` to byte ``offset`` of the output.

    A chunk has ``2 * lanes`` bytes; every output port writes an equal part of it, port 0 the
    lowest, at ``offset / output_ports`` of its window. Chunks may come before their instruction.
    Up to four stores wait for their responses; each gives its tokens the cycle after the last
    response of the last port. One beat per port and cycle.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    control
        Instructions and tokens.
    axi0, axi1, ...
        Write channels of the output ports.
    window0, window1, ...
        Their windows.
    output
        Chunks of int16 results, from the vector unit.
    beat
        A beat crosses the bus on any port.
    abort, idle, fault
        As of :class:`~moesaic.hw.axi.write.WriteEngine`, of all ports.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        ports = range(arch.output_ports)
        super().__init__(
            {
                "control": In(InstructionPort()),
                **{f"axi{p}": Out(AxiWrite(arch.data_port_bytes)) for p in ports},
                **{f"window{p}": In(WindowSettings()) for p in ports},
                "output": In(stream.Signature(RESIDUAL_BITS * arch.lanes)),
                "beat": Out(1),
                "abort": In(1),
                "idle": Out(1),
                "fault": Out(FaultPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.front = front = TransferFrontend(isa.Opcode.STORE)
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=isa.UNIT_COUNT, depth=JOBS)
        connect(m, flipped(self.control.queue), front.queue)
        engines = self._ports(m)

        # Every engine takes the command on its own; when all have, the instruction is free.
        store = front.started.payload
        sent = Signal(len(engines))
        offer, complete = Signal(), Signal()
        m.d.comb += [
            offer.eq(front.started.valid & jobs.w_rdy),
            complete.eq(sent.all()),
            front.started.ready.eq(complete),
            jobs.w_en.eq(complete),
            jobs.w_data.eq(store.signal),
        ]
        with m.If(complete):
            m.d.sync += sent.eq(0)
        with m.Elif(offer):
            m.d.sync += sent.eq(sent | Cat(engine.command.ready for engine in engines))
        beats_per_word = 2 * self.arch.lanes // self.arch.output_line_bytes
        for port, engine in enumerate(engines):
            m.d.comb += [
                engine.command.valid.eq(offer & ~sent[port]),
                engine.command.payload.offset.eq(store.offset // len(engines)),
                engine.command.payload.beats.eq(store.words << beats_per_word.bit_length() - 1),
            ]

        # A store is done when every port is done with it.
        done, ready = Signal(), []
        for port, engine in enumerate(engines):
            ahead = Signal(range(JOBS + 1), name=f"ahead{port}")
            m.d.sync += ahead.eq(ahead + engine.done - done)
            ready.append((ahead != 0) | engine.done)
        m.d.comb += [done.eq(Cat(ready).all()), jobs.r_en.eq(done)]
        m.d.sync += [self.control.give.eq(done), self.control.signal.eq(jobs.r_data)]

        under_way = Signal()
        m.d.comb += [
            self.control.wait.eq(front.wait),
            self.control.want.eq(front.want),
            self.control.take.eq(front.take),
            front.granted.eq(self.control.granted),
            under_way.eq(jobs.level != 0),
            self.control.busy.eq(front.holding | under_way | sent.any() | self.control.give),
            self.control.working.eq(self.beat),
            self.control.stalled.eq(under_way & ~self.beat),
            self.control.wait_token.eq(front.lacking & ~under_way),
        ]
        return m

    def _ports(self, m: Module) -> list[Any]:
        """The write engines, fed with their parts of every chunk."""
        arch = self.arch
        beat_bytes = arch.data_port_bytes
        part_bits = RESIDUAL_BITS * arch.lanes // arch.output_ports
        beats_per_word = 2 * arch.lanes // arch.output_line_bytes
        engines, narrows = [], []
        for port in range(arch.output_ports):
            engine = WriteEngine(
                beat_bytes,
                offset_bits=isa.width(isa.Opcode.STORE, "offset"),
                beats_bits=isa.width(isa.Opcode.STORE, "words") + beats_per_word.bit_length() - 1,
                max_burst=arch.max_burst,
            )
            narrow = Narrow(part_bits, 8 * beat_bytes)
            m.submodules[f"engine{port}"] = engine
            m.submodules[f"narrow{port}"] = narrow
            connect(m, engine.axi, flipped(getattr(self, f"axi{port}")))
            connect(m, flipped(getattr(self, f"window{port}")), engine.window)
            connect(m, narrow.o, engine.data)
            m.d.comb += engine.abort.eq(self.abort)
            engines.append(engine)
            narrows.append(narrow)
        # All ports take a chunk together: their buffers make up for the pauses of each.
        m.d.comb += self.output.ready.eq(Cat(narrow.i.ready for narrow in narrows).all())
        for port, narrow in enumerate(narrows):
            m.d.comb += [
                narrow.i.valid.eq(self.output.valid & self.output.ready),
                narrow.i.payload.eq(self.output.payload.word_select(port, part_bits)),
            ]
        m.d.comb += [
            self.beat.eq(Cat(engine.beat for engine in engines).any()),
            self.idle.eq(Cat(engine.idle for engine in engines).all()),
            self.fault.window.eq(Cat(engine.fault.window for engine in engines).any()),
            self.fault.bus.eq(Cat(engine.fault.bus for engine in engines).any()),
        ]
        return engines
