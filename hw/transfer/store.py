"""The store unit: results of the vector unit to external memory."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.write import WriteEngine
from moesaic.hw.interfaces import AxiWrite, FaultPort, InstructionPort, WindowSettings
from moesaic.hw.memory.resize import Narrow
from moesaic.hw.transfer.frontend import TransferFrontend
from moesaic.hw.transfer.split import ChunkSplitter, route_layout
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import RESIDUAL_BITS

JOBS = 4


class StoreUnit(wiring.Component):
    """Executes STORE: the next ``words`` chunks of ``output`` to byte ``offset`` of the output.

    A chunk has ``2 * lanes`` bytes; every output port writes an equal part of it, port 0 the
    lowest, at ``offset / output_ports`` of its window. A ``single`` store writes whole chunks at
    ``offset`` of port 0's window, part behind part: what a LOAD reads again. Chunks may come before
    their instruction. Up to four stores wait for their responses; each gives its tokens the cycle
    after the last response of the last port that writes. One beat per port and cycle.

    So a LOAD behind the tokens reads what was written if the memory answers a write only when every
    later read of the data master sees it. Both cross the same AXI port, which AXI4 demands that of.

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
        arch = self.arch
        several = arch.output_ports > 1
        job_layout = data.StructLayout(
            {"signal": isa.UNIT_COUNT, **({"single": 1} if several else {})}
        )
        m.submodules.front = front = TransferFrontend(isa.Opcode.STORE)
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=job_layout.size, depth=JOBS)
        connect(m, flipped(self.control.queue), front.queue)
        engines, narrows = self._ports(m)

        # Every engine takes the command on its own; when all have, the instruction is free.
        store = front.started.payload
        single: Value = store.single if several else Const(0)
        sent = Signal(len(engines))
        offer, complete = Signal(), Signal()
        new_job, job = data.View(job_layout, jobs.w_data), data.View(job_layout, jobs.r_data)
        m.d.comb += [
            offer.eq(front.started.valid & jobs.w_rdy),
            complete.eq(sent.all()),
            front.started.ready.eq(complete),
            jobs.w_en.eq(complete),
            new_job.signal.eq(store.signal),
        ]
        # With one port, a single store is like any other.
        elsewhere = Cat(Const(0, 1), single.replicate(len(engines) - 1))
        with m.If(complete):
            m.d.sync += sent.eq(0)
        with m.Elif(offer):
            m.d.sync += sent.eq(sent | Cat(engine.command.ready for engine in engines) | elsewhere)
        beats = 2 * arch.lanes // arch.output_line_bytes
        for port, engine in enumerate(engines):
            offset, words = store.offset // len(engines), store.words << beats.bit_length() - 1
            if several and port == 0:
                offset = Mux(single, store.offset, offset)
                words = Mux(single, words << len(engines).bit_length() - 1, words)
            m.d.comb += [
                engine.command.valid.eq(offer & ~sent[port] & ~elsewhere[port]),
                engine.command.payload.offset.eq(offset),
                engine.command.payload.beats.eq(words),
            ]

        # A store is done when every port that writes is done with it.
        done, ready = Signal(), []
        for port, engine in enumerate(engines):
            skipped: Value = job.single if port else Const(0)
            ahead = Signal(range(JOBS + 1), name=f"ahead{port}")
            m.d.sync += ahead.eq(ahead + engine.done - (done & ~skipped))
            ready.append((ahead != 0) | engine.done | skipped)
        m.d.comb += [done.eq(Cat(ready).all()), jobs.r_en.eq(done)]
        m.d.sync += [self.control.give.eq(done), self.control.signal.eq(job.signal)]

        if several:
            m.d.comb += new_job.single.eq(single)
            m.submodules.routes = routes = SyncFIFOBuffered(width=route_layout().size, depth=JOBS)
            m.submodules.splitter = splitter = ChunkSplitter(arch)
            new_route = data.View(route_layout(), routes.w_data)
            m.d.comb += [
                # There is room: a store's job is longer under way than its chunks.
                routes.w_en.eq(complete),
                new_route.words.eq(store.words),
                new_route.single.eq(single),
                splitter.route.valid.eq(routes.r_rdy),
                splitter.route.payload.eq(routes.r_data),
                routes.r_en.eq(splitter.route.ready),
            ]
            connect(m, flipped(self.output), splitter.chunks)
            for port, narrow in enumerate(narrows):
                connect(m, getattr(splitter, f"part{port}"), narrow.i)
        else:
            connect(m, flipped(self.output), narrows[0].i)

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

    def _ports(self, m: Module) -> tuple[list[Any], list[Any]]:
        """The write engines, and in front of each what takes its parts of chunks into beats."""
        arch = self.arch
        beat_bytes = arch.data_port_bytes
        part_bits = RESIDUAL_BITS * arch.lanes // arch.output_ports
        engines, narrows = [], []
        for port in range(arch.output_ports):
            # A single store has all beats on port 0.
            chunk_beats = 2 * arch.lanes // (arch.output_line_bytes if port else beat_bytes)
            engine = WriteEngine(
                beat_bytes,
                offset_bits=isa.width(isa.Opcode.STORE, "offset"),
                beats_bits=isa.width(isa.Opcode.STORE, "words") + chunk_beats.bit_length() - 1,
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
        m.d.comb += [
            self.beat.eq(Cat(engine.beat for engine in engines).any()),
            self.idle.eq(Cat(engine.idle for engine in engines).all()),
            self.fault.window.eq(Cat(engine.fault.window for engine in engines).any()),
            self.fault.bus.eq(Cat(engine.fault.bus for engine in engines).any()),
        ]
        return engines, narrows
