"""AXI4 read bursts inside an address window: the one way any unit reads external memory."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.skid import SkidBuffer
from moesaic.hw.interfaces import AxiRead, FaultPort, WindowSettings
from moesaic.spec.registers import WINDOW_ALIGNMENT

MAX_BURST_BEATS = 64
OUTSTANDING_BURSTS = 8
"""8 bursts of 64 beats: 512 beats under way hide any latency that a memory controller has."""

_INCREMENTING = 0b01
_CACHE = 0b0011
"""Normal, non-cacheable, bufferable: the interconnect may merge and hold transfers."""
_PAGE_LOG2 = WINDOW_ALIGNMENT.bit_length() - 1


def command_layout(offset_bits: int, beats_bits: int) -> data.StructLayout:
    """A read command: first byte relative to the window's base, number of beats."""
    return data.StructLayout({"offset": offset_bits, "beats": beats_bits})


def beat_layout(data_bytes: int) -> data.StructLayout:
    """One beat of read data; ``last`` marks the last beat of a command (not of a burst)."""
    return data.StructLayout({"data": 8 * data_bytes, "last": 1})


class ReadEngine(wiring.Component):
    """Turns read commands into INCR bursts and returns their data as one stream, in order.

    Commands run back to back: the bursts of the next one are issued while the data of the last
    one arrive. A command that does not lie inside the window, or does not start on a beat, is
    refused as a whole: nothing of it is issued and ``fault.window`` rises. Bursts end at
    multiples of ``max_burst`` beats, so none crosses 4 KiB (windows start at multiples of 4 KiB).
    A command of 0 beats does nothing.

    Every AXI output comes from a register but ``rready`` in an abort. Latency: 3 cycles from
    ``command`` to ``arvalid``, 1 cycle from R channel to ``data``. One burst address and one beat
    per cycle. The engine takes beats only as fast as ``data`` goes: whoever shares the AXI port
    with others must have room for all beats before it sends a command.

    After a fault the engine issues nothing more, takes and drops what is outstanding, and keeps
    ``fault`` up until ``abort``.

    Never reset it while bursts are outstanding: hold ``abort`` until ``idle``, then reset.

    Parameters
    ----------
    data_bytes
        Bytes per beat; power of two.
    offset_bits, beats_bits
        Widths of the fields of a command.
    max_burst
        Longest burst in beats; power of two up to 256. Cut to 4 KiB.
    outstanding
        Bursts under way at most; power of two.

    Attributes
    ----------
    command
        Commands, ``command_layout``.
    window
        The address window; stable from a command until its last burst is issued.
    axi
        AXI4 read channels.
    data
        Beats, ``beat_layout``.
    beat
        High in a cycle in which a beat crosses the bus, for byte counters.
    abort
        Forget all commands and data; drain what is outstanding.
    idle
        No command, no outstanding burst, no beat in the engine.
    fault
        ``window``: a command was refused. ``bus``: a beat came with an error response.

    Raises
    ------
    ValueError
        A parameter is no power of two, or ``max_burst`` is above 256.
    """

    def __init__(
        self,
        data_bytes: int,
        *,
        offset_bits: int = 32,
        beats_bits: int = 32,
        max_burst: int = MAX_BURST_BEATS,
        outstanding: int = OUTSTANDING_BURSTS,
    ) -> None:
        for name, value in (
            ("data_bytes", data_bytes),
            ("max_burst", max_burst),
            ("outstanding", outstanding),
        ):
            if value < 2 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two above 1, not {value!r}")
        if max_burst > 256:
            raise ValueError(f"max_burst must be at most 256, not {max_burst!r}")
        self.data_bytes = data_bytes
        self.offset_bits, self.beats_bits = offset_bits, beats_bits
        self.max_burst = min(max_burst, WINDOW_ALIGNMENT // data_bytes)
        self.outstanding = outstanding
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(offset_bits, beats_bits))),
                "window": In(WindowSettings()),
                "axi": Out(AxiRead(data_bytes)),
                "data": Out(stream.Signature(beat_layout(data_bytes))),
                "beat": Out(1),
                "abort": In(1),
                "idle": Out(1),
                "fault": Out(FaultPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        shift = self.data_bytes.bit_length() - 1
        burst_log2 = self.max_burst.bit_length() - 1

        # After abort or a fault: issue nothing, drop what comes.
        failed = Signal()
        drain = Signal()
        m.d.comb += [failed.eq(self.fault.window | self.fault.bus), drain.eq(self.abort | failed)]

        # Stage 1: the next command, with its end in beats.
        offset, beats = self.command.payload.offset, self.command.payload.beats
        pending = Signal()
        next_start = Signal(max(1, self.offset_bits - shift))
        next_beats = Signal(self.beats_bits)
        next_end = Signal(max(len(next_start), self.beats_bits) + 1)
        misaligned = Signal()
        advance = Signal()
        m.d.comb += self.command.ready.eq((~pending | advance) & ~drain)
        with m.If(self.command.ready):
            m.d.sync += [
                pending.eq(self.command.valid),
                next_start.eq(offset[shift:]),
                next_beats.eq(beats),
                next_end.eq(offset[shift:] + beats),
                misaligned.eq(offset[:shift].any()),
            ]

        # Stage 2: the command that is being issued. Addresses are beats in the window.
        start = Signal(32 - shift)
        remaining = Signal(self.beats_bits)
        to_boundary = Signal(burst_log2 + 1)
        length = Signal(burst_log2 + 1)
        final, issue = Signal(), Signal()
        under_way = Signal(range(self.outstanding + 1))
        m.d.comb += [
            to_boundary.eq(self.max_burst - start[:burst_log2]),
            final.eq(remaining <= to_boundary),
            length.eq(Mux(final, remaining, to_boundary)),
            issue.eq(
                remaining.any()
                & (~axi.arvalid | axi.arready)
                & (under_way != self.outstanding)
                & ~drain
            ),
            advance.eq(pending & ~drain & (~remaining.any() | (issue & final))),
        ]
        with m.If(issue):
            m.d.sync += [start.eq(start + length), remaining.eq(remaining - length)]
        with m.If(advance):
            with m.If(misaligned | (next_end > self.window.size[shift:])):
                m.d.sync += [self.fault.window.eq(1), remaining.eq(0)]
            with m.Else():
                m.d.sync += [start.eq(next_start), remaining.eq(next_beats)]

        # Address channel. Once up, arvalid stays up until taken, abort or not.
        page = start[_PAGE_LOG2 - shift :]
        m.d.comb += [
            axi.arsize.eq(shift),
            axi.arburst.eq(_INCREMENTING),
            axi.arcache.eq(_CACHE),
            axi.arprot.eq(0),
        ]
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.arlen.eq(length - 1),
                axi.araddr.eq(
                    Cat(
                        Const(0, shift),
                        start[: _PAGE_LOG2 - shift],
                        self.window.base[_PAGE_LOG2:] + page,
                    )
                ),
            ]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)

        # Which of the bursts under way is the last one of its command.
        ends = Signal(self.outstanding)
        head, tail = Signal(range(self.outstanding)), Signal(range(self.outstanding))
        burst_done = Signal()
        m.d.comb += [
            self.beat.eq(axi.rvalid & axi.rready),
            burst_done.eq(self.beat & axi.rlast),
        ]
        with m.If(issue):
            m.d.sync += [ends.bit_select(tail, 1).eq(final), tail.eq(tail + 1)]
        with m.If(burst_done):
            m.d.sync += head.eq(head + 1)
        m.d.sync += under_way.eq(under_way + issue - burst_done)

        # Data channel.
        m.submodules.skid = skid = SkidBuffer(beat_layout(self.data_bytes))
        error = Signal()
        m.d.comb += [
            error.eq(axi.rresp[1]),
            axi.rready.eq(skid.i.ready | drain),
            skid.i.valid.eq(axi.rvalid & ~drain & ~error),
            skid.i.payload.data.eq(axi.rdata),
            skid.i.payload.last.eq(axi.rlast & ends.bit_select(head, 1)),
            skid.flush.eq(drain),
        ]
        wiring.connect(m, skid.o, wiring.flipped(self.data))
        with m.If(self.beat & error & ~drain):
            m.d.sync += self.fault.bus.eq(1)

        with m.If(drain):
            m.d.sync += [pending.eq(0), remaining.eq(0)]
        with m.If(self.abort):
            m.d.sync += [self.fault.window.eq(0), self.fault.bus.eq(0)]
        m.d.comb += self.idle.eq(
            ~pending & ~remaining.any() & ~axi.arvalid & ~under_way.any() & ~self.data.valid
        )
        return m
