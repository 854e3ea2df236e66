"""Commands cut into AXI4 bursts inside an address window: what reading and writing share."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import WindowSettings
from moesaic.spec.arch import ADDRESS_BITS
from moesaic.spec.registers import WINDOW_ALIGNMENT

MAX_BURST_BEATS = 64
OUTSTANDING_BURSTS = 8
"""8 bursts of 64 beats: 512 beats under way hide any latency that a memory controller has."""
INCREMENTING = 0b01
CACHE = 0b0011
"""Normal, non-cacheable, bufferable: the interconnect may merge and hold transfers."""
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

    Commands run back to back, one burst per cycle at most. A command that leaves the window or
    does not start on a beat is refused as a whole. Bursts end at multiples of ``max_burst``
    beats, so none crosses 4 KiB. A command of 0 beats issues nothing. Latency: 3 cycles from
    ``command`` to ``valid``.

    Parameters
    ----------
    data_bytes
        Bytes per beat; power of two.
    offset_bits, beats_bits
        Widths of the fields of a command.
    max_burst
        Longest burst in beats; power of two, at most 4 KiB.

    Attributes
    ----------
    command, window
        Commands, ``command_layout``; the window is stable while they are worked on.
    room
        The burst of ``length`` beats that is next may be issued. May depend on ``length``.
    drop
        Forget all commands and issue nothing.
    valid, ready, address, beats
        Address channel; ``beats`` is AXI4's length minus one. Once up, ``valid`` stays up until
        ``ready``, whatever ``drop`` does.
    issue, length, final
        A burst is issued in this cycle; its beats; it is the last one of its command.
    refused
        A command is refused in this cycle.
    idle
        No command, and nothing on the address channel.
    """

    def __init__(
        self, data_bytes: int, *, offset_bits: int, beats_bits: int, max_burst: int
    ) -> None:
        self.data_bytes, self.max_burst = data_bytes, max_burst
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

        # Stage 1: the next command, with its end in beats.
        offset, beats = self.command.payload.offset, self.command.payload.beats
        pending, misaligned, advance = Signal(), Signal(), Signal()
        next_start = Signal(max(1, self.offset_bits - shift))
        next_beats = Signal(self.beats_bits)
        next_end = Signal(max(len(next_start), self.beats_bits) + 1)
        m.d.comb += self.command.ready.eq((~pending | advance) & ~self.drop)
        with m.If(self.command.ready):
            m.d.sync += [
                pending.eq(self.command.valid),
                next_start.eq(offset[shift:]),
                next_beats.eq(beats),
                next_end.eq(offset[shift:] + beats),
                misaligned.eq(offset[:shift].any()),
            ]

        # Stage 2: the command that is being issued. Addresses are beats in the window.
        start = Signal(len(self.window.size) - shift)
        remaining = Signal(self.beats_bits)
        to_boundary = Signal(burst_log2 + 1)
        m.d.comb += [
            to_boundary.eq(self.max_burst - start[:burst_log2]),
            self.final.eq(remaining <= to_boundary),
            self.length.eq(Mux(self.final, remaining, to_boundary)),
            self.issue.eq(remaining.any() & (~self.valid | self.ready) & self.room & ~self.drop),
            advance.eq(pending & ~self.drop & (~remaining.any() | (self.issue & self.final))),
            self.refused.eq(advance & (misaligned | (next_end > self.window.size[shift:]))),
        ]
        with m.If(self.issue):
            m.d.sync += [
                start.eq(start + self.length),
                remaining.eq(remaining - self.length),
            ]
        with m.If(self.refused):
            m.d.sync += remaining.eq(0)
        with m.Elif(advance):
            m.d.sync += [start.eq(next_start), remaining.eq(next_beats)]
        with m.If(self.drop):
            m.d.sync += [pending.eq(0), remaining.eq(0)]

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
        m.d.comb += self.idle.eq(~pending & ~remaining.any() & ~self.valid)
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
