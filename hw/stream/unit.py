"""The weight stream unit: runs ahead of compute and keeps the ring full."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.read import ReadEngine
from moesaic.hw.interfaces import AxiRead, FaultPort, InstructionPort, RouterState, WindowSettings
from moesaic.hw.memory.fifo import RamFifo
from moesaic.hw.memory.half import HalfBuffer
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.hw.stream.lines import LineAssembler
from moesaic.hw.stream.sequencer import StreamSequencer, stream_command
from moesaic.spec.arch import ArchConfig


class StreamUnit(wiring.Component):
    """STREAM instructions in, ring words out, over ``weight_ports`` AXI4 read ports.

    Ring word j of the image is at byte ``j * ring_read_bytes / weight_ports`` of every port's
    window. One line per cycle across instructions with an ideal memory. The ring lets weights
    run ahead of their use by ``ring_bytes``; when it is full, the ports stop taking beats.

    Reset it only when ``idle`` is up while ``abort`` is held: read bursts cannot be recalled.
    Reset must follow every abort, for the ring keeps the words it has.

    Attributes
    ----------
    control
        Instructions and tokens.
    axi0, axi1, ...
        AXI4 read masters.
    window0, window1, ...
        Address window of each port.
    ring
        Weights and parameter blocks in program order, ``ring_read_bytes`` per word.
    fetched
        One bit per predicated segment, in order: whether its words are in the ring.
    router
        The last finished routing.
    discard
        One ring word was dropped because its expert has no tokens.
    fault
        A window violation or a bus error on any port; stays up until ``abort``.
    abort
        Issue nothing more, take and drop outstanding data.
    idle
        Nothing outstanding on any port.
    weight_read_bytes, weight_unused_bytes
        Bytes to add to these counters in this cycle.
    experts_fetched, experts_skipped, stream_wait_ring, stream_wait_routing
        Counter events.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        ports = range(arch.weight_ports)
        super().__init__(
            {
                "control": In(InstructionPort()),
                **{f"axi{port}": Out(AxiRead(arch.weight_port_bytes)) for port in ports},
                **{f"window{port}": In(WindowSettings()) for port in ports},
                "ring": Out(stream.Signature(8 * arch.ring_read_bytes)),
                "fetched": Out(stream.Signature(1)),
                "router": In(RouterState(arch)),
                "discard": In(1),
                "fault": Out(FaultPort()),
                "abort": In(1),
                "idle": Out(1),
                "weight_read_bytes": Out(range(arch.line_bytes + 1)),
                "weight_unused_bytes": Out(range(arch.ring_read_bytes + 1)),
                "experts_fetched": Out(1),
                "experts_skipped": Out(1),
                "stream_wait_ring": Out(1),
                "stream_wait_routing": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        m.submodules.sequencer = sequencer = StreamSequencer(arch)
        m.submodules.lines = lines = LineAssembler(arch)
        m.submodules.ring = ring = RamFifo(
            8 * arch.ring_read_bytes, arch.ring_words, registered=True, ultra=arch.ultra_ring
        )

        command = stream_command(arch)
        engines = []
        for port in range(arch.weight_ports):
            engine = ReadEngine(
                arch.weight_port_bytes,
                offset_bits=command["offset"].width,
                beats_bits=command["beats"].width,
                max_burst=arch.max_burst,
                eager=False,  # a routing that is finished meanwhile may save the next segment
                buffered=False,  # each port has a memory behind it
            )
            m.submodules[f"engine{port}"] = engine
            engines.append(engine)
            wiring.connect(m, getattr(sequencer, f"command{port}"), engine.command)
            wiring.connect(m, engine.data, getattr(lines, f"beats{port}"))
            wiring.connect(m, engine.axi, wiring.flipped(getattr(self, f"axi{port}")))
            wiring.connect(m, wiring.flipped(getattr(self, f"window{port}")), engine.window)
            m.d.comb += engine.abort.eq(self.abort)
        # The ring is large and far away: its output hangs on nothing within the cycle, nor does
        # a word of several lines, which has a register to wait in. A word of one line comes out of
        # memories and may as well wait there.
        m.submodules.output = output = SkidBuffer(8 * arch.ring_read_bytes)
        if arch.ring_read_bytes > arch.line_bytes:
            m.submodules.whole = whole = HalfBuffer(8 * arch.ring_read_bytes)
            wiring.connect(m, lines.word, whole.i)
            wiring.connect(m, whole.o, ring.put)
        else:
            wiring.connect(m, lines.word, ring.put)
        wiring.connect(m, ring.take, output.i)
        wiring.connect(m, output.o, wiring.flipped(self.ring))
        wiring.connect(m, wiring.flipped(self.control), sequencer.control)
        wiring.connect(m, wiring.flipped(self.router), sequencer.router)
        wiring.connect(m, sequencer.fetched, wiring.flipped(self.fetched))

        crossed = Signal(range(arch.weight_ports + 1))
        m.d.sync += crossed.eq(sum(engine.beat for engine in engines))
        m.d.comb += [
            sequencer.line.eq(lines.line),
            sequencer.refused.eq(lines.refused),
            sequencer.segment.eq(lines.segment),
            sequencer.stop.eq(self.abort),
            self.idle.eq(Cat(engine.idle for engine in engines).all() & ~sequencer.pending),
            self.fault.window.eq(Cat(engine.fault.window for engine in engines).any()),
            self.fault.bus.eq(Cat(engine.fault.bus for engine in engines).any()),
            self.weight_read_bytes.eq(crossed * arch.weight_port_bytes),
            self.weight_unused_bytes.eq(self.discard * arch.ring_read_bytes),
            self.experts_fetched.eq(sequencer.experts_fetched),
            self.experts_skipped.eq(sequencer.experts_skipped),
            self.stream_wait_ring.eq(sequencer.stream_wait_ring),
            self.stream_wait_routing.eq(sequencer.stream_wait_routing),
        ]
        return m
