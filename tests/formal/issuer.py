"""Bursts of an AXI4 master: addresses, lengths, windows, and the order of commands."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data

from moesaic.hw.axi import burst
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant
from tests.formal.streams import hold

DATA_BYTES, SHIFT, PAGE = 4, 2, 4096
MAX_BURST, BURST_LOG2 = 4, 2


class Issuer(Harness):
    """Commands of any kind at any time; one of them is watched from taking to its last burst."""

    def __init__(
        self, module=burst, *, offset_bits=14, beats_bits=12, eager=True, aligned=True
    ) -> None:
        super().__init__()
        self.aligned = aligned
        self.dut = module.BurstIssuer(
            DATA_BYTES,
            offset_bits=offset_bits,
            beats_bits=beats_bits,
            max_burst=MAX_BURST,
            eager=eager,
        )

    def describe(self, m: Module) -> None:
        dut = self.dut
        m.submodules.dut = inner = Opened(dut)
        command, window = dut.command.payload, dut.window
        m.d.comb += [
            dut.command.valid.eq(self.free(m, 1, "offered")),
            command.offset.eq(self.free(m, len(command.offset), "offset")),
            command.beats.eq(self.free(m, len(command.beats), "beats")),
            window.base.eq(self.fixed(m, len(window.base), "base")),
            window.size.eq(self.fixed(m, len(window.size), "size")),
            dut.room.eq(self.free(m, 1, "room")),
            dut.drop.eq(self.free(m, 1, "drop")),
            dut.ready.eq(self.free(m, 1, "ready")),
        ]
        size = window.size[SHIFT:]
        # The registers take no other windows.
        if self.aligned:
            self.assume(window.base % PAGE == 0)
        self.assume((window.base + window.size) <= (1 << len(window.base)))

        taken = dut.command.valid & dut.command.ready
        first = command.offset[SHIFT:]
        bad = command.offset[:SHIFT].any() | (first + command.beats > size)
        nothing = ~bad & ~command.beats.any()
        ended = dut.issue & dut.final

        choose = self.free(m, 1, "choose")
        level, whole = Signal(4), Signal(len(command.beats))
        marked, ahead = Signal(), Signal(4)
        at, left, refusable = Signal(len(size)), Signal(len(command.beats)), Signal()
        m.d.sync += level.eq(level + (taken & ~nothing) - ended - dut.refused)
        with m.If(taken & ~nothing & choose & ~marked):
            m.d.sync += [
                marked.eq(1),
                at.eq(first),
                left.eq(command.beats),
                refusable.eq(bad),
                whole.eq(command.beats),
                ahead.eq(level - ended - dut.refused),
            ]
        turn = marked & (ahead == 0)
        refused = marked & dut.refused & (ahead == ended)
        with m.If(marked):
            m.d.sync += ahead.eq(ahead - ended - dut.refused)
        with m.If(turn & dut.issue):
            m.d.sync += [at.eq(at + dut.length), left.eq(left - dut.length), ahead.eq(0)]
            with m.If(dut.final):
                m.d.sync += marked.eq(0)
        with m.If(refused):
            m.d.sync += marked.eq(0)
        with m.If(dut.drop):
            m.d.sync += [level.eq(0), marked.eq(0)]

        to_boundary = MAX_BURST - at[:BURST_LOG2]
        issue = turn & dut.issue
        self.ensure("a command in the window is not refused", implies(refused, refusable))
        self.ensure("a refused command issues nothing", ~(issue & refusable))
        self.ensure(
            "a burst has the beats up to the boundary or the command's end",
            implies(issue, dut.length == Mux(left > to_boundary, to_boundary, left)),
        )
        self.ensure(
            "the last burst ends the command", implies(issue, dut.final == (dut.length == left))
        )
        self.ensure(
            "nothing is issued without a command", implies(dut.issue | dut.refused, level != 0)
        )
        self.ensure("nothing is issued in a drop", ~(dut.issue & dut.drop))
        # The address channel.
        expected, check = Signal(len(dut.address) + 1), Signal()
        beats = Signal(len(dut.length))
        m.d.sync += check.eq(issue)
        m.d.sync += [expected.eq(window.base + (at << SHIFT)), beats.eq(dut.length)]
        self.ensure(
            "the address is that of the command's next beat",
            implies(check, dut.valid & (dut.address == expected) & (dut.beats + 1 == beats)),
        )
        bytes_ = (dut.beats + 1) << SHIFT
        self.ensure("no burst crosses 4 KiB", implies(dut.valid, dut.address[:12] + bytes_ <= PAGE))
        self.ensure(
            "no burst leaves the window",
            implies(
                dut.valid,
                (dut.address >= window.base) & (dut.address + bytes_ <= window.base + window.size),
            ),
        )
        self.ensure(
            "an address stands until it is taken",
            hold(self, m, dut.valid, dut.ready, Cat(dut.address, dut.beats), "ar"),
        )
        self.ensure("idle", implies(dut.idle, (level == 0) & ~dut.valid))
        self.describe_inside(
            m,
            inner,
            marked=marked,
            ahead=ahead,
            at=at,
            left=left,
            refusable=refusable,
            choose=choose,
            level=level,
            enters=taken & ~nothing & choose & ~marked,
        )
        self.cover("a command of three bursts", issue & dut.final & (whole > 2 * MAX_BURST))
        self.cover("refused", refused)
        if dut.eager:
            self.cover("five commands inside", level == 5)

    def describe_inside(
        self, m, inner, *, marked, ahead, at, left, refusable, choose, level, enters
    ):
        """Invariants: what the stages hold, and in which one the watched command is."""
        dut = self.dut
        size = dut.window.size[SHIFT:]
        taken, worked_out = inner["taken"], inner["worked_out"]
        command, second, end = inner["command"], inner["second"], inner["end"]
        # The buffer behind them: the word that leaves next, and the one behind that.
        prepared, words = inner["prepared"], inner["prepared.words"]
        free, some, oldest = (inner[f"prepared.{name}"] for name in ("free", "some", "oldest"))
        filled_next = inner["prepared.filled_next"]
        fourth, fourth_valid = prepared.o.payload, prepared.o.valid
        third_valid = ~free
        third = data.View(second.shape(), Mux(oldest, words[0], words[1]))
        self.invariant(implies(~free, some & (filled_next == 0)))
        self.invariant(implies(free, filled_next == Mux(oldest ^ some, 2, 1)))
        start, remaining, busy = inner["start"], inner["remaining"], inner["busy"]

        def to_boundary(value):
            return MAX_BURST - value[:BURST_LOG2]

        def least(a, b):
            return Mux(a < b, a, b)

        # Each stage holds what follows from the command alone.
        self.invariant(
            implies(
                taken,
                (command.to_boundary == to_boundary(command.start))
                & (command.short == (command.beats < 2 * MAX_BURST)),
            )
        )
        for stage, valid in ((second, worked_out), (third, third_valid), (fourth, fourth_valid)):
            self.invariant(
                implies(
                    valid,
                    (stage.length == least(to_boundary(stage.start), stage.beats))
                    & (stage.final == (stage.beats <= to_boundary(stage.start)))
                    & (stage.empty == (stage.beats == 0)),
                )
            )
        self.invariant(implies(worked_out, end == second.start + second.beats))
        for stage, valid in ((third, third_valid), (fourth, fourth_valid)):
            self.invariant(implies(valid & ~stage.refused, stage.start + stage.beats <= size))
        self.invariant(implies(third_valid, fourth_valid))
        self.invariant(implies(busy, (remaining != 0) & (start + remaining <= size)))
        self.invariant(
            implies(
                dut.next,
                busy
                & (dut.length == least(to_boundary(start), remaining))
                & (dut.final == (remaining <= to_boundary(start))),
            )
        )
        self.invariant(implies(busy & ~dut.next, start[:BURST_LOG2] == 0))
        # The watched command's place.
        advance = inner["move"]
        load = inner["load"]
        here = [Signal(name=f"in_{n}") for n in ("command", "second", "spare", "ready", "issue")]
        with m.If(advance):
            m.d.sync += [here[0].eq(enters), here[1].eq(here[0])]
        into = here[1] & advance
        with m.If(load | ~fourth_valid):
            m.d.sync += [here[3].eq(Mux(third_valid, here[2], into)), here[2].eq(0)]
        with m.Elif(~third_valid):
            m.d.sync += here[2].eq(into)
        with m.If(load):
            m.d.sync += here[4].eq(here[3] & ~fourth.refused)
        with m.Elif(dut.issue & dut.final):
            m.d.sync += here[4].eq(0)
        with m.If(dut.drop):
            m.d.sync += [each.eq(0) for each in here]
        self.invariant(marked == (sum(here) == 1))
        self.invariant(sum(here) <= 1)
        self.invariant(implies(marked, refusable | (left != 0)))

        def something(stage, valid, refused):
            return valid & ~(stage.empty & ~refused)

        count = [
            taken & ~((command.beats == 0) & ~command.misaligned & (command.start <= size)),
            worked_out & ~((second.beats == 0) & ~second.refused & (second.start <= size)),
            third_valid & ~(third.empty & ~third.refused),
            fourth_valid & ~(fourth.empty & ~fourth.refused),
            busy,
        ]
        self.invariant(level == sum(count))
        bad = (
            command.misaligned | (command.start + command.beats > size),
            second.refused | (end > size),
            third.refused,
            fourth.refused,
            0,
        )
        for n, (stage, valid) in enumerate(
            ((command, taken), (second, worked_out), (third, third_valid), (fourth, fourth_valid))
        ):
            self.invariant(
                implies(
                    here[n],
                    valid
                    & (stage.start == at)
                    & (stage.beats == left)
                    & (bad[n] == refusable)
                    & (ahead == sum(count[n + 1 :])),
                )
            )
        self.invariant(
            implies(here[4], busy & (start == at) & (remaining == left) & ~refusable & (ahead == 0))
        )


_STANDS = "an address stands until it is taken"
_INSIDE = "no burst leaves the window"

PROOFS = (
    Proof(
        "issuer",
        Issuer,
        (
            Control(
                "a boundary off by one",
                "no burst crosses 4 KiB",
                lambda: Issuer(
                    mutant(
                        burst,
                        "self.max_burst - offset[shift :",
                        "self.max_burst + 1 - offset[shift :",
                    )
                ),
            ),
            Control(
                "valid falls without ready",
                _STANDS,
                lambda: Issuer(mutant(burst, "with m.Elif(self.ready):", "with m.Else():")),
            ),
            Control(
                "no look at the window's end",
                _INSIDE,
                lambda: Issuer(mutant(burst, "| (end > self.window.size[shift:])", "")),
            ),
            Control(
                "a full burst in place of the rest",
                "a burst has the beats up to the boundary or the command's end",
                lambda: Issuer(
                    mutant(
                        burst,
                        "self.length.eq(Mux(rest, self.max_burst, remaining[: burst_log2 + 1])),",
                        "self.length.eq(self.max_burst),",
                    )
                ),
            ),
            Control("a window that begins anywhere", _INSIDE, lambda: Issuer(aligned=False)),
        ),
        steps=1,
    ),
    Proof(
        "issuer-late",
        lambda: Issuer(eager=False),
        (
            Control(
                "a drop that is not heeded",
                "nothing is issued in a drop",
                lambda: Issuer(
                    mutant(burst, "& self.room & ~self.drop", "& self.room"), eager=False
                ),
            ),
        ),
        steps=1,
    ),
    # Of the widths that the units have.
    Proof("issuer-wide", lambda: Issuer(offset_bits=32, beats_bits=32), (), steps=1),
)
