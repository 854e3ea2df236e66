"""AXI4 write bursts inside an address window: the one way any unit writes external memory."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.read import MAX_BURST_BEATS, OUTSTANDING_BURSTS, command_layout
from moesaic.hw.interfaces import AxiWrite, FaultPort, WindowSettings
from moesaic.hw.memory.fifo import RamFifo
from moesaic.spec.registers import WINDOW_ALIGNMENT

_INCREMENTING = 0b01
_CACHE = 0b0011
"""Normal, non-cacheable, bufferable, as for reads."""
_PAGE_LOG2 = WINDOW_ALIGNMENT.bit_length() - 1


class WriteEngine(wiring.Component):
    """Turns write commands and one stream of beats into INCR bursts.

    ``data`` holds the beats of all commands, in order; beats may come before their command. A
    burst is issued when all its beats are in the engine's buffer: a slow producer never holds the
    bus, and a burst that has begun can always be finished. ``done`` is high for one cycle per
    command, in order, when the response to its last burst is in.

    A command that does not lie inside the window, or does not start on a beat, is refused as a
    whole: ``fault.window`` rises. Bursts end at multiples of ``max_burst`` beats, so none crosses
    4 KiB (windows start at multiples of 4 KiB). A command of 0 beats is refused too: it would
    have no response to be done with.

    Latency: 3 cycles from ``command`` (with its beats in the buffer) to ``awvalid``; ``wvalid``
    rises in the same cycle. One beat per cycle, without a gap between bursts.

    After a fault the engine issues nothing more and finishes what is outstanding; ``fault`` stays
    up until ``abort``. Never reset it while bursts are outstanding: hold ``abort`` until
    ``idle``, then reset.

    Parameters
    ----------
    data_bytes
        Bytes per beat; power of two.
    offset_bits, beats_bits
        Widths of the fields of a command.
    max_burst
        Longest burst in beats; power of two up to 256. Cut to 4 KiB.
    outstanding
        Bursts without a response at most; power of two.

    Attributes
    ----------
    command
        Commands, ``command_layout``.
    window
        The address window; stable from a command until it is done.
    axi
        AXI4 write channels.
    data
        Beats.
    done
        A command is complete.
    beat
        High in a cycle in which a beat crosses the bus, for byte counters.
    abort
        Forget all commands and data; finish what is outstanding.
    idle
        No command and no outstanding burst. Beats may wait in the buffer for a command to come.
    fault
        ``window``: a command was refused. ``bus``: a burst got an error response.

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
                "axi": Out(AxiWrite(data_bytes)),
                "data": In(stream.Signature(8 * data_bytes)),
                "done": Out(1),
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

        failed, drain = Signal(), Signal()
        m.d.comb += [failed.eq(self.fault.window | self.fault.bus), drain.eq(self.abort | failed)]

        # Stage 1: the next command, with its end in beats.
        offset, beats = self.command.payload.offset, self.command.payload.beats
        pending, malformed, advance = Signal(), Signal(), Signal()
        next_start = Signal(self.offset_bits - shift)
        next_beats = Signal(self.beats_bits)
        next_end = Signal(max(len(next_start), self.beats_bits) + 1)
        m.d.comb += self.command.ready.eq((~pending | advance) & ~drain)
        with m.If(self.command.ready):
            m.d.sync += [
                pending.eq(self.command.valid),
                next_start.eq(offset[shift:]),
                next_beats.eq(beats),
                next_end.eq(offset[shift:] + beats),
                malformed.eq(offset[:shift].any() | (beats == 0)),
            ]

        # Stage 2: the command that is being issued. Addresses are beats in the window.
        start = Signal(32 - shift)
        remaining = Signal(self.beats_bits)
        to_boundary = Signal(burst_log2 + 1)
        length = Signal(burst_log2 + 1)
        final, issue = Signal(), Signal()
        unanswered = Signal(range(self.outstanding + 1))
        unsent = Signal(burst_log2 + 1)
        m.submodules.buffer = buffer = RamFifo(8 * self.data_bytes, 2 * self.max_burst)
        sending = Signal()
        m.d.comb += [
            to_boundary.eq(self.max_burst - start[:burst_log2]),
            final.eq(remaining <= to_boundary),
            length.eq(Mux(final, remaining, to_boundary)),
            sending.eq(axi.wvalid & axi.wready),
            issue.eq(
                remaining.any()
                & (~axi.awvalid | axi.awready)
                & (unanswered != self.outstanding)
                & ((unsent == 0) | ((unsent == 1) & sending))
                & (buffer.level >= length + unsent)
                & ~drain
            ),
            advance.eq(pending & ~drain & (~remaining.any() | (issue & final))),
        ]
        with m.If(issue):
            m.d.sync += [start.eq(start + length), remaining.eq(remaining - length)]
        with m.If(advance):
            with m.If(malformed | (next_end > self.window.size[shift:])):
                m.d.sync += [self.fault.window.eq(1), remaining.eq(0)]
            with m.Else():
                m.d.sync += [start.eq(next_start), remaining.eq(next_beats)]

        # Address channel. Once up, awvalid stays up until taken, abort or not.
        page = start[_PAGE_LOG2 - shift :]
        m.d.comb += [
            axi.awsize.eq(shift),
            axi.awburst.eq(_INCREMENTING),
            axi.awcache.eq(_CACHE),
            axi.awprot.eq(0),
        ]
        with m.If(issue):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awlen.eq(length - 1),
                axi.awaddr.eq(
                    Cat(
                        Const(0, shift),
                        start[: _PAGE_LOG2 - shift],
                        self.window.base[_PAGE_LOG2:] + page,
                    )
                ),
            ]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)

        # Data channel. The first beat must not wait for awready: AXI4 forbids it.
        m.d.comb += [
            buffer.put.valid.eq(self.data.valid & ~drain),
            buffer.put.payload.eq(self.data.payload),
            self.data.ready.eq(buffer.put.ready & ~drain),
            axi.wvalid.eq((unsent != 0) & buffer.take.valid),
            axi.wdata.eq(buffer.take.payload),
            axi.wstrb.eq(-1),
            axi.wlast.eq(unsent == 1),
            # A drain empties the buffer behind the burst that is under way.
            buffer.take.ready.eq(sending | (drain & (unsent == 0))),
            self.beat.eq(sending),
        ]
        with m.If(issue):
            m.d.sync += unsent.eq(length)
        with m.Elif(sending):
            m.d.sync += unsent.eq(unsent - 1)

        # Response channel. Which of the bursts without a response is the last of its command.
        ends = Signal(self.outstanding)
        head, tail = Signal(range(self.outstanding)), Signal(range(self.outstanding))
        answered = Signal()
        m.d.comb += [
            axi.bready.eq(1),
            answered.eq(axi.bvalid),
            self.done.eq(answered & ends.bit_select(head, 1) & ~axi.bresp[1] & ~drain),
        ]
        with m.If(issue):
            m.d.sync += [ends.bit_select(tail, 1).eq(final), tail.eq(tail + 1)]
        with m.If(answered):
            m.d.sync += head.eq(head + 1)
        m.d.sync += unanswered.eq(unanswered + issue - answered)
        with m.If(answered & axi.bresp[1] & ~drain):
            m.d.sync += self.fault.bus.eq(1)

        with m.If(drain):
            m.d.sync += [pending.eq(0), remaining.eq(0)]
        with m.If(self.abort):
            m.d.sync += [self.fault.window.eq(0), self.fault.bus.eq(0)]
        m.d.comb += self.idle.eq(
            ~pending & ~remaining.any() & ~axi.awvalid & ~unanswered.any() & ~unsent.any()
        )
        return m
