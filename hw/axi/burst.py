"""Commands cut into AXI4 bursts inside an address window: what reading and writing share."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import WindowSettings
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.spec.arch import ADDRESS_BITS
from moesaic.spec.registers import WINDOW_ALIGNMENT

MAX_BURST_BEATS = 64
OUTSTANDING_BURSTS = 8
"""8 bursts of 64 beats: 512 beats under way hide any latency that a memory controller has."""
INCREMENTING = 0b01
_PAGE_LOG2 = WINDOW_ALIGNMENT.bit_length() - 1


def command_layout(offset_bits: int, beats_bits: int) -> data.StructLayout:
    """A command: first byte relative to the window's base, number of beats."""
    return data.StructLayout({"offset": offset_bits, "beats": beats_bits})


def check_sizes(data_bytes: int, max_burst: int, outstanding: int) -> int:
    """Return the longest burst in beats: ``max_burst``, cut to 4 KiB.

    Raises
    ------
    ValueError
        A parameter is no power of two above 1, or ``max_burst`` is above 256.
    """
    for name, value in (
        ("data_bytes", data_bytes),
        ("max_burst", max_burst),
        ("outstanding", outstanding),
    ):
        if value < 2 or value & (value - 1):
            raise ValueError(f"{name} must be a power of two above 1, not {value!r}")
    if max_burst > 256:
        raise ValueError(f"max_burst must be at most 256, not {max_burst!r}")
    return min(max_burst, WINDOW_ALIGNMENT // data_bytes)


class BurstIssuer(wiring.Component):
    """Checks commands against the window and puts their bursts on an address channel.

    Commands run back to back, one burst every other cycle at most. A command that leaves the
    window or does not start on a beat is refused as a whole. Bursts end at multiples of
    ``max_burst`` beats, so none crosses 4 KiB. A command of 0 beats issues nothing. Latency: 5
    cycles from ``command`` to ``valid``.

    What decides on a burst is worked out before its turn comes: ``length`` and ``final`` are
    registers, and ``command.ready`` hangs on nothing behind the next two commands.

    Parameters
    ----------
    data_bytes
        Bytes per beat; power of two.
    offset_bits, beats_bits
        Widths of the fields of a command.
    max_burst
        Longest burst in beats; power of two, at most 4 KiB.
    eager
        Take up to four commands ahead of the one that is being issued; else one, so that whoever
        sends them can decide late.

    Attributes
    ----------
    command, window
        Commands, ``command_layout``; the window is stable while they are worked on.
    room
        The burst of ``length`` beats that is next may be issued.
    drop
        Forget all commands and issue nothing.
    valid, ready, address, beats
        Address channel; ``beats`` is AXI4's length minus one. Once up, ``valid`` stays up until
        ``ready``, whatever ``drop`` does.
    next
        ``length`` is that of a burst which waits to be issued.
    issue, length, final
        A burst is issued in this cycle; its beats; it is the last one of its command.
    refused
        A command is refused in this cycle.
    idle
        No command, and nothing on the address channel.
    """

    def __init__(
        self,
        data_bytes: int,
        *,
        offset_bits: int,
        beats_bits: int,
        max_burst: int,
        eager: bool = True,
    ) -> None:
        self.data_bytes, self.max_burst, self.eager = data_bytes, max_burst, eager
        self.offset_bits, self.beats_bits = offset_bits, beats_bits
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(offset_bits, beats_bits))),
                "window": In(WindowSettings()),
                "room": In(1),
                "drop": In(1),
                "valid": Out(1),
                "ready": In(1),
                "address": Out(ADDRESS_BITS),
                "beats": Out(8),
                "next": Out(1),
                "issue": Out(1),
                "length": Out(range(max_burst + 1)),
                "final": Out(1),
                "refused": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self.data_bytes.bit_length() - 1
        burst_log2 = self.max_burst.bit_length() - 1

        # Two stages that move together: a command, then its end and its first burst.
        offset, beats = self.command.payload.offset, self.command.payload.beats
        taken, worked_out, move = Signal(), Signal(), Signal()
        command = Signal(
            data.StructLayout(
                {
                    "start": max(1, self.offset_bits - shift),
                    "beats": self.beats_bits,
                    "misaligned": 1,
                    "to_boundary": burst_log2 + 1,
                    "short": 1,  # no longer than a burst, or nearly so
                }
            ),
            reset_less=True,
        )
        layout = data.StructLayout(
            {
                "start": len(command.start),
                "beats": self.beats_bits,
                "length": range(self.max_burst + 1),
                "final": 1,
                "empty": 1,
                "refused": 1,
            }
        )
        m.submodules.prepared = prepared = SkidBuffer(layout)
        second = Signal(layout, reset_less=True)
        end = Signal(max(len(command.start), self.beats_bits) + 1, reset_less=True)
        m.d.comb += [
            move.eq(~worked_out | prepared.i.ready),
            self.command.ready.eq(move & ~self.drop),
        ]
        if not self.eager:
            waiting = taken | worked_out | prepared.o.valid
            m.d.comb += self.command.ready.eq(~waiting & ~self.drop)
        final = command.short & (command.beats[: burst_log2 + 1] <= command.to_boundary)
        with m.If(move):
            m.d.sync += [
                taken.eq(self.command.valid & self.command.ready),
                command.start.eq(offset[shift:]),
                command.beats.eq(beats),
                command.misaligned.eq(offset[:shift].any()),
                command.to_boundary.eq(
                    self.max_burst - offset[shift : shift + burst_log2],
                ),
                command.short.eq(~beats[burst_log2 + 1 :].any()),
                worked_out.eq(taken),
                second.start.eq(command.start),
                second.beats.eq(command.beats),
                second.final.eq(final),
                second.length.eq(Mux(final, command.beats, command.to_boundary)),
                second.empty.eq(command.short & ~command.beats[: burst_log2 + 1].any()),
                second.refused.eq(command.misaligned),
                end.eq(command.start + command.beats),
            ]
        m.d.comb += [
            prepared.i.valid.eq(worked_out),
            prepared.i.payload.eq(second),
            prepared.i.payload.refused.eq(second.refused | (end > self.window.size[shift:])),
            prepared.flush.eq(self.drop),
        ]

        # The command that is being issued. Addresses are beats in the window.
        start = Signal(len(self.window.size) - shift)
        remaining = Signal(self.beats_bits)
        busy, load, free = Signal(), Signal(), Signal()
        first = prepared.o.payload
        m.d.comb += [
            # Not in the cycle in which the last one is taken: nothing here hangs on the bus.
            self.issue.eq(self.next & ~self.valid & self.room & ~self.drop),
            free.eq(~busy),
            prepared.o.ready.eq(free & ~self.drop),
            load.eq(prepared.o.valid & prepared.o.ready),
            self.refused.eq(load & first.refused),
        ]
        with m.If(self.issue):
            m.d.sync += [
                start.eq(start + self.length),
                remaining.eq(remaining - self.length),
                self.next.eq(0),
                busy.eq(~self.final),
            ]
        with m.Elif(busy & ~self.next):
            # Behind a burst that ended at a boundary.
            rest = remaining[burst_log2:].any() & (remaining != self.max_burst)
            m.d.sync += [
                self.next.eq(1),
                self.final.eq(~rest),
                self.length.eq(Mux(rest, self.max_burst, remaining[: burst_log2 + 1])),
            ]
        with m.If(load):
            m.d.sync += [
                start.eq(first.start),
                remaining.eq(first.beats),
                self.length.eq(first.length),
                self.final.eq(first.final),
                busy.eq(~first.refused & ~first.empty),
                self.next.eq(~first.refused & ~first.empty),
            ]
        with m.If(self.drop):
            m.d.sync += [taken.eq(0), worked_out.eq(0), busy.eq(0), self.next.eq(0)]

        page = start[_PAGE_LOG2 - shift :]
        with m.If(self.issue):
            m.d.sync += [
                self.valid.eq(1),
                self.beats.eq(self.length - 1),
                self.address.eq(
                    Cat(
                        Const(0, shift),
                        start[: _PAGE_LOG2 - shift],
                        self.window.base[_PAGE_LOG2:] + page,
                    )
                ),
            ]
        with m.Elif(self.ready):
            m.d.sync += self.valid.eq(0)
        m.d.comb += self.idle.eq(~(taken | worked_out | prepared.o.valid | busy | self.valid))
        return m


class LastOfCommand(wiring.Component):
    """Remembers, for the bursts under way in order, which ones end a command.

    Attributes
    ----------
    issue, final
        A burst goes out, and whether it is its command's last.
    done
        The oldest burst is finished.
    last
        Whether the oldest burst is its command's last.
    under_way
        Bursts issued and not done, 0 .. ``outstanding``.
    """

    def __init__(self, outstanding: int) -> None:
        self.outstanding = outstanding
        super().__init__(
            {
                "issue": In(1),
                "final": In(1),
                "done": In(1),
                "last": Out(1),
                "under_way": Out(range(outstanding + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ends = Signal(self.outstanding)
        head, tail = Signal(range(self.outstanding)), Signal(range(self.outstanding))
        m.d.comb += self.last.eq(ends.bit_select(head, 1))
        with m.If(self.issue):
            m.d.sync += [ends.bit_select(tail, 1).eq(self.final), tail.eq(tail + 1)]
        with m.If(self.done):
            m.d.sync += head.eq(head + 1)
        m.d.sync += self.under_way.eq(self.under_way + self.issue - self.done)
        return m
