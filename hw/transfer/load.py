"""The load unit: external memory to the scratchpads and the tables of activations."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.axi.read import ReadEngine
from moesaic.hw.interfaces import (
    ActivationWrite,
    AxiRead,
    FaultPort,
    InstructionPort,
    ResidualWrite,
    TableWrite,
    WindowSettings,
)
from moesaic.hw.memory.half import HalfBuffer
from moesaic.hw.memory.resize import Widen
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.hw.transfer.frontend import TransferFrontend
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig

JOBS = 4
"""Loads under way: enough that the memory's latency is paid once for a row of small loads."""


class LoadUnit(wiring.Component):
    """Executes LOAD: ``words`` scratchpad words from byte ``offset`` of a window.

    An activation word has ``depth`` bytes, a residual word ``2 * lanes``, an entry of a table a
    beat. A load is requested as
    soon as it has its tokens, up to four ahead of the one whose data arrive; a load from another
    window waits until the earlier ones are read. It gives its tokens the cycle after its last
    word is written. One beat per cycle.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    control
        Instructions and tokens.
    axi
        Read channels of the data port.
    windows
        ``window0`` to ``window3``, by number of ``isa.Window``.
    activation_write, residual_write, table_write
        Write ports of the scratchpads and the tables.
    beat, abort, idle, fault
        As of :class:`~moesaic.hw.axi.read.ReadEngine`.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "control": In(InstructionPort()),
                "axi": Out(AxiRead(arch.data_port_bytes)),
                **{f"window{w.value}": In(WindowSettings()) for w in isa.Window},
                "activation_write": Out(ActivationWrite(arch)),
                "residual_write": Out(ResidualWrite(arch)),
                "table_write": Out(TableWrite()),
                "beat": Out(1),
                "abort": In(1),
                "idle": Out(1),
                "fault": Out(FaultPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        beat_bytes = arch.data_port_bytes
        positions = isa.positions(isa.Opcode.LOAD)
        word_bits = positions["words"][1]
        word_bytes = {space: layout.load_bytes(arch, space) for space in isa.Space}

        m.submodules.front = front = TransferFrontend(isa.Opcode.LOAD)
        widest_beats = max(word_bytes.values()) // beat_bytes
        m.submodules.engine = engine = ReadEngine(
            beat_bytes,
            offset_bits=positions["offset"][1],
            beats_bits=word_bits + widest_beats.bit_length() - 1,
            max_burst=arch.max_burst,
        )
        connect(m, engine.axi, flipped(self.axi))
        connect(m, flipped(self.control.queue), front.queue)
        m.d.comb += [
            self.control.wait.eq(front.wait),
            self.control.want.eq(front.want),
            self.control.take.eq(front.take),
            front.granted.eq(self.control.granted),
            engine.abort.eq(self.abort),
            self.idle.eq(engine.idle),
            self.beat.eq(engine.beat),
            self.fault.window.eq(engine.fault.window),
            self.fault.bus.eq(engine.fault.bus),
        ]

        # Request: a command for the engine and a job for the writing end, in one cycle.
        job_layout = data.StructLayout(
            {
                "space": positions["space"][1],
                "base": positions["base"][1],
                "words": word_bits,
                "signal": isa.UNIT_COUNT,
            }
        )
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=job_layout.size, depth=JOBS)
        load = front.started.payload
        window = Signal(positions["window"][1])
        usable, request = Signal(), Signal()
        m.d.comb += [
            usable.eq((window == load.window) & jobs.w_rdy),
            engine.command.valid.eq(front.started.valid & usable),
            engine.command.payload.offset.eq(load.offset),
            request.eq(engine.command.valid & engine.command.ready),
            front.started.ready.eq(request),
        ]
        with m.Switch(load.space):
            for space, size in word_bytes.items():
                with m.Case(space):
                    m.d.comb += engine.command.payload.beats.eq(
                        load.words << (size // beat_bytes).bit_length() - 1
                    )
        # The engine reads the window until its last burst is issued.
        with m.If(front.started.valid & (window != load.window) & engine.idle):
            m.d.sync += window.eq(load.window)
        with m.Switch(window):
            for w in isa.Window:
                with m.Case(w):
                    settings = getattr(self, f"window{w.value}")
                    m.d.comb += [
                        engine.window.base.eq(settings.base),
                        engine.window.size.eq(settings.size),
                    ]
        new_job = data.View(job_layout, jobs.w_data)
        m.d.comb += [
            jobs.w_en.eq(request),
            new_job.space.eq(load.space),
            new_job.base.eq(load.base),
            new_job.words.eq(load.words),
            new_job.signal.eq(load.signal),
        ]

        # Writing: the job at the front of the queue gets the beats, up to the last of a command.
        job = data.View(job_layout, jobs.r_data)
        writing = Signal()
        # A bit for each space: beats that are on their way there.
        receiving = {space: Signal(name=f"receiving_{space.name.lower()}") for space in isa.Space}
        last_beat, job_done, job_left = Signal(), Signal(), Signal()
        written, written_last = Signal(), Signal()
        # Of the next word on its way to the memory.
        words = Countdown(word_bits, "words")
        accepted = Signal()
        m.d.comb += [
            accepted.eq(engine.data.valid & engine.data.ready),
            last_beat.eq(accepted & engine.data.payload.last),
            job_done.eq(written & written_last),
            jobs.r_en.eq(job_left),
        ]
        m.d.sync += job_left.eq(job_done)
        with m.If(~writing):
            # What is there while no job is does no harm.
            m.d.sync += words.begin(job.words)
        with m.If(~writing & ~job_left & jobs.r_rdy):
            m.d.sync += writing.eq(1)
            m.d.sync += [bit.eq(job.space == space) for space, bit in receiving.items()]
        with m.Elif(job_left):
            m.d.sync += writing.eq(0)
        with m.If(last_beat):
            m.d.sync += [bit.eq(0) for bit in receiving.values()]
        m.d.sync += [self.control.give.eq(job_done), self.control.signal.eq(job.signal)]

        ports = {
            isa.Space.ACTIVATION: self.activation_write,
            isa.Space.RESIDUAL: self.residual_write,
            isa.Space.TABLE: self.table_write,
        }
        m.d.comb += self.activation_write.mask.eq(-1)
        for space, port in ports.items():
            widen = Widen(8 * beat_bytes, 8 * word_bytes[space])
            m.submodules[f"widen_{space.name.lower()}"] = widen
            # Where the memory is busy is not known to the bus within the cycle. Where several
            # beats make a word, words do not follow each other.
            word_layout = data.StructLayout({"data": 8 * word_bytes[space], "last": 1})
            several = word_bytes[space] > beat_bytes
            word: HalfBuffer | SkidBuffer = (HalfBuffer if several else SkidBuffer)(word_layout)
            m.submodules[f"word_{space.name.lower()}"] = word
            # An address for each memory: what it says to a write comes late in its cycle.
            address = Signal.like(port.address, name=f"{space.name.lower()}_address")
            m.d.comb += [
                widen.i.valid.eq(engine.data.valid & receiving[space]),
                widen.i.payload.eq(engine.data.payload.data),
                port.valid.eq(word.o.valid),
                port.address.eq(address),
                port.data.eq(word.o.payload.data),
                word.o.ready.eq(port.ready),
                word.i.valid.eq(widen.o.valid),
                word.i.payload.data.eq(widen.o.payload),
                word.i.payload.last.eq(words.last),
                widen.o.ready.eq(word.i.ready),
            ]
            with m.If(word.i.valid & word.i.ready):
                m.d.sync += words.step()
            with m.If(receiving[space]):
                m.d.comb += engine.data.ready.eq(widen.i.ready)
            m.d.sync += address.eq(Mux(writing, address, job.base) + (port.valid & port.ready))
            with m.If(port.valid & port.ready):
                m.d.comb += [written.eq(1), written_last.eq(word.o.payload.last)]

        under_way, works = Signal(), Signal()
        m.d.comb += [
            under_way.eq(writing | jobs.r_rdy | (jobs.level != 0)),
            works.eq(accepted | written),
            self.control.busy.eq(front.holding | under_way | self.control.give),
        ]
        # Counted a cycle late: these come late in their cycle.
        m.d.sync += [
            self.control.working.eq(works),
            self.control.stalled.eq(under_way & ~works),
            self.control.wait_token.eq(front.lacking & ~under_way),
        ]
        return m
