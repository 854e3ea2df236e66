"""AXI4 read bursts inside an address window: the one way any unit reads external memory."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.burst import (
    INCREMENTING,
    MAX_BURST_BEATS,
    OUTSTANDING_BURSTS,
    BurstIssuer,
    LastOfCommand,
    check_sizes,
    command_layout,
)
from moesaic.hw.interfaces import AxiRead, FaultPort, WindowSettings
from moesaic.hw.memory.skid import SkidBuffer


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

    Every AXI output comes from a register but ``rready`` in an abort. Latency: 5 cycles from
    ``command`` to ``arvalid``, 1 cycle from R channel to ``data`` (0 if not ``buffered``). One
    burst address every other cycle, one beat per cycle. The engine takes beats only as fast as
    ``data`` goes: whoever shares the AXI port with others must have room for all beats before it
    sends a command.

    After a fault, and from the second cycle of an ``abort``, the engine issues nothing more, takes
    and drops what is outstanding, and keeps
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
    eager
        As of :class:`~moesaic.hw.axi.burst.BurstIssuer`.
    buffered
        Without it ``data`` is the R channel itself, for a consumer whose ``ready`` is a register
        and who writes what it takes into a memory or a register. A beat that is offered and not
        taken is withdrawn when an abort or a fault begins.

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
        eager: bool = True,
        buffered: bool = True,
    ) -> None:
        self.max_burst = check_sizes(data_bytes, max_burst, outstanding)
        self.data_bytes = data_bytes
        self.offset_bits, self.beats_bits = offset_bits, beats_bits
        self.outstanding, self.eager, self.buffered = outstanding, eager, buffered
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
        # After abort or a fault: issue nothing, drop what comes.
        drain, bad_beat = Signal(), Signal()

        m.submodules.issuer = issuer = BurstIssuer(
            self.data_bytes,
            offset_bits=self.offset_bits,
            beats_bits=self.beats_bits,
            max_burst=self.max_burst,
            eager=self.eager,
        )
        m.submodules.bursts = bursts = LastOfCommand(self.outstanding)
        # A cycle old: no two bursts are issued in a row.
        room = Signal()
        m.d.sync += room.eq(bursts.under_way != self.outstanding)
        wiring.connect(m, wiring.flipped(self.command), issuer.command)
        wiring.connect(m, wiring.flipped(self.window), issuer.window)
        m.d.comb += [
            issuer.drop.eq(drain),
            issuer.room.eq(room),
            issuer.ready.eq(axi.arready),
            axi.arvalid.eq(issuer.valid),
            axi.araddr.eq(issuer.address),
            axi.arlen.eq(issuer.beats),
            axi.arsize.eq(self.data_bytes.bit_length() - 1),
            axi.arburst.eq(INCREMENTING),
            bursts.issue.eq(issuer.issue),
            bursts.final.eq(issuer.final),
            bursts.done.eq(self.beat & axi.rlast),
            self.beat.eq(axi.rvalid & axi.rready),
        ]

        beats = stream.Signature(beat_layout(self.data_bytes)).create()
        error = Signal()
        m.d.comb += [
            error.eq(axi.rresp[1]),
            axi.rready.eq(beats.ready | drain),
            beats.valid.eq(axi.rvalid & ~drain & ~error),
            beats.payload.data.eq(axi.rdata),
            beats.payload.last.eq(axi.rlast & bursts.last),
        ]
        kept = Signal()
        if self.buffered:
            m.submodules.skid = skid = SkidBuffer(beat_layout(self.data_bytes))
            wiring.connect(m, beats, skid.i)
            wiring.connect(m, skid.o, wiring.flipped(self.data))
            m.d.comb += [skid.flush.eq(drain), kept.eq(skid.o.valid)]
        else:
            wiring.connect(m, beats, wiring.flipped(self.data))

        m.d.comb += bad_beat.eq(self.beat & error & ~drain)
        m.d.sync += drain.eq(
            self.abort | self.fault.window | self.fault.bus | issuer.refused | bad_beat
        )
        with m.If(issuer.refused):
            m.d.sync += self.fault.window.eq(1)
        with m.If(bad_beat):
            m.d.sync += self.fault.bus.eq(1)
        with m.If(self.abort):
            m.d.sync += [self.fault.window.eq(0), self.fault.bus.eq(0)]
        m.d.comb += self.idle.eq(issuer.idle & ~bursts.under_way.any() & ~kept)
        return m
