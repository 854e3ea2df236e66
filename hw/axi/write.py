"""AXI4 write bursts inside an address window: the one way any unit writes external memory."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
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
from moesaic.hw.interfaces import AxiWrite, FaultPort, WindowSettings
from moesaic.hw.memory.fifo import RamFifo


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

    Latency: 6 cycles from ``command`` (with its beats in the buffer) to ``awvalid``, 3 from the
    last of the beats at least; ``wvalid`` rises a cycle later. One beat per cycle, without a gap
    between bursts of three and more beats; shorter ones take three cycles each.

    After a fault, and from the second cycle of an ``abort``, the engine issues nothing more and
    finishes what is outstanding; ``fault`` stays
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
        self.max_burst = check_sizes(data_bytes, max_burst, outstanding)
        self.data_bytes = data_bytes
        self.offset_bits, self.beats_bits = offset_bits, beats_bits
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
        axi, command = self.axi, self.command
        drain, empty = Signal(), Signal()
        refused, bad_response = Signal(), Signal()
        m.d.comb += empty.eq(command.valid & ~command.payload.beats.any())

        m.submodules.issuer = issuer = BurstIssuer(
            self.data_bytes,
            offset_bits=self.offset_bits,
            beats_bits=self.beats_bits,
            max_burst=self.max_burst,
        )
        m.submodules.bursts = bursts = LastOfCommand(self.outstanding)
        m.submodules.buffer = buffer = RamFifo(8 * self.data_bytes, 2 * self.max_burst)
        # The burst whose beats are being sent, and one whose turn comes next.
        unsent, last = Signal(range(self.max_burst + 1)), Signal()
        none_unsent = Signal(init=1)  # beside the number
        following, follows = Signal(range(self.max_burst + 1)), Signal()
        sending, sent = Signal(), Signal()
        wiring.connect(m, wiring.flipped(command), issuer.command)
        wiring.connect(m, wiring.flipped(self.window), issuer.window)

        # Beats in the buffer that no burst has been promised, and whether they are a burst's and
        # nothing else is in its way. The answer is a cycle old, and stands until the burst is
        # issued: beats only become more, and no two bursts are issued in a row.
        spare = Signal(range(2 * self.max_burst + 2))
        enough, put, came, dropped = Signal(), Signal(), Signal(), Signal()
        m.d.comb += put.eq(buffer.put.valid & buffer.put.ready)
        # What comes is counted a cycle later, for it is known late in its cycle.
        unpromised = Mux(issuer.issue, spare - issuer.length, spare)
        m.d.sync += [
            came.eq(put),
            spare.eq(unpromised + Cat(came ^ dropped, ~came & dropped).as_signed()),
            enough.eq(
                issuer.next
                & ~issuer.issue
                & (spare >= issuer.length)
                & (bursts.under_way != self.outstanding)
                & ~follows
            ),
        ]
        m.d.comb += [
            issuer.drop.eq(drain),
            issuer.room.eq(enough),
            issuer.ready.eq(axi.awready),
            axi.awvalid.eq(issuer.valid),
            axi.awaddr.eq(issuer.address),
            axi.awlen.eq(issuer.beats),
            axi.awsize.eq(self.data_bytes.bit_length() - 1),
            axi.awburst.eq(INCREMENTING),
        ]

        # Data channel. The first beat must not wait for awready: AXI4 forbids it.
        m.d.comb += [
            buffer.put.valid.eq(self.data.valid),
            buffer.put.payload.eq(self.data.payload),
            self.data.ready.eq(buffer.put.ready),
            axi.wvalid.eq(~none_unsent & buffer.take.valid),
            axi.wdata.eq(buffer.take.payload),
            axi.wstrb.eq(-1),
            axi.wlast.eq(last),
            sending.eq(axi.wvalid & axi.wready),
            sent.eq(none_unsent | (sending & last)),
            # A drain empties the buffer behind the bursts that are under way.
            dropped.eq(drain & none_unsent & ~follows & buffer.take.valid),
            buffer.take.ready.eq(sending | dropped),
            self.beat.eq(sending),
        ]
        with m.If(issuer.issue):
            m.d.sync += [following.eq(issuer.length), follows.eq(1)]
        with m.Elif(sent):
            m.d.sync += follows.eq(0)
        with m.If(sent):
            m.d.sync += [
                unsent.eq(Mux(follows, following, 0)),
                none_unsent.eq(~follows),
                last.eq(follows & (following == 1)),
            ]
        with m.Elif(sending):
            m.d.sync += [unsent.eq(unsent - 1), last.eq(unsent == 2)]

        # Response channel.
        m.d.comb += [
            axi.bready.eq(1),
            bursts.issue.eq(issuer.issue),
            bursts.final.eq(issuer.final),
            bursts.done.eq(axi.bvalid),
            self.done.eq(axi.bvalid & bursts.last & ~axi.bresp[1] & ~drain),
        ]
        m.d.comb += [
            refused.eq(issuer.refused | (empty & command.ready)),
            bad_response.eq(axi.bvalid & axi.bresp[1] & ~drain),
        ]
        m.d.sync += drain.eq(
            self.abort | self.fault.window | self.fault.bus | refused | bad_response
        )
        with m.If(refused):
            m.d.sync += self.fault.window.eq(1)
        with m.If(bad_response):
            m.d.sync += self.fault.bus.eq(1)
        with m.If(self.abort):
            m.d.sync += [self.fault.window.eq(0), self.fault.bus.eq(0)]
        m.d.comb += self.idle.eq(issuer.idle & ~bursts.under_way.any() & none_unsent & ~follows)
        return m
