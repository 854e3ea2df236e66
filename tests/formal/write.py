"""The AXI4 write engine, in front of a memory that keeps AXI4's rules."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal

from moesaic.hw.axi import write
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant
from tests.formal.streams import Quiet, Watch, hold

DATA_BYTES, MAX_BURST, OUTSTANDING, WINDOW_BYTES = 4, 2, 2, 32
IN_TURN = "data are sent in order, none twice"
LAST = "wlast is up with the last beat of a burst, and no other"
BURSTS = f"never more than {OUTSTANDING} bursts without a response"
DONE = "a command is done when all its beats are sent"
QUICK = "a burst that has an address has its beats at once"
STUCK = "never stuck: a beat, an address, a response or a fault within 10 cycles"


REFUSED = "a refused command is never done"


COUNTED = "nothing is done without a command"


IDLE = "idle is idle"


class Engine(Harness):
    """Commands and data of any kind at any time; an abort is held until reset."""

    size = "4-byte beats, bursts of 2, 2 outstanding, commands of up to 7 beats in 32 bytes"

    def __init__(self, module=write) -> None:
        super().__init__()
        self.dut = module.WriteEngine(
            DATA_BYTES, offset_bits=6, beats_bits=3, max_burst=MAX_BURST, outstanding=OUTSTANDING
        )

    def describe(self, m: Module) -> None:
        dut = self.dut
        m.submodules.dut = inner = Opened(dut)
        axi, command, data = dut.axi, dut.command, dut.data
        generous = self.free(m, 1, "generous")
        for number, target in enumerate(
            (
                axi.awready,
                axi.wready,
                axi.bvalid,
                axi.bresp,
                command.valid,
                dut.abort,
                command.payload.offset,
                command.payload.beats,
                data.valid,
                data.payload,
            )
        ):
            m.d.comb += target.eq(self.free(m, len(target), f"free_{number}"))
        m.d.comb += [dut.window.base.eq(0), dut.window.size.eq(WINDOW_BYTES)]
        aborted = Signal()
        m.d.sync += aborted.eq(dut.abort)
        self.assume(implies(aborted, dut.abort))
        drain = aborted | dut.fault.window | dut.fault.bus
        answered = axi.bvalid & axi.bready

        # The memory answers a burst whose address and last beat it has.
        addresses, bodies = Signal(3), Signal(3)
        m.d.sync += [
            addresses.eq(addresses + (axi.awvalid & axi.awready) - answered),
            bodies.eq(bodies + (axi.wvalid & axi.wready & axi.wlast) - answered),
        ]
        self.assume(implies(axi.bvalid, (addresses != 0) & (bodies != 0)))
        self.assume(hold(self, m, axi.bvalid, axi.bready, axi.bresp, "b"))
        self.assume(
            implies(
                generous,
                axi.awready
                & axi.wready
                & data.valid
                & (axi.bvalid | (addresses == 0) | (bodies == 0)),
            )
        )

        # The address channel. An offer is new where the one before was taken.
        self.ensure(
            "an address stands until it is taken",
            hold(self, m, axi.awvalid, axi.awready, Cat(axi.awaddr, axi.awlen), "aw"),
        )
        self.ensure(
            "a beat stands until it is taken",
            hold(self, m, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wlast), "w"),
        )
        offered = Signal()
        m.d.sync += offered.eq(axi.awvalid & ~axi.awready)
        new = axi.awvalid & ~offered
        under_way = Signal(3)
        m.d.sync += under_way.eq(under_way + new - answered)
        self.ensure(BURSTS, under_way + new <= OUTSTANDING)

        # One burst, and its beats.
        sent = axi.wvalid & axi.wready
        ended = sent & axi.wlast
        choose = self.free(m, 1, "choose_burst")
        bursts, marked, ahead, left = Signal(3), Signal(), Signal(3), Signal(8)
        m.d.sync += bursts.eq(bursts + new - ended)
        here = new & choose & ~marked & ~((bursts == 0) & axi.wvalid)
        with m.If(here):
            m.d.sync += [marked.eq(1), ahead.eq(bursts - ended), left.eq(axi.awlen)]
        with m.Elif(marked & ended):
            m.d.sync += ahead.eq(ahead - 1)
        turn = marked & (ahead == 0)
        with m.If(turn & sent):
            m.d.sync += left.eq(left - 1)
            with m.If(axi.wlast):
                m.d.sync += [marked.eq(0), ahead.eq(0)]
        self.ensure(LAST, implies(turn & axi.wvalid, axi.wlast == (left == 0)))
        # Where the bursts are: being sent, or next in turn.
        unsent, last, following, follows = (
            inner[name] for name in ("unsent", "last", "following", "follows")
        )
        self.invariant((bursts + new) == ((unsent != 0) + follows))
        self.invariant(last == (unsent == 1))
        self.invariant(implies(new, follows & (following == axi.awlen + 1)))
        self.invariant(implies(follows, following != 0))
        self.invariant(
            implies(
                marked,
                Mux(
                    (ahead == 0) & (unsent != 0),
                    left + 1 == unsent,
                    follows & (left + 1 == following) & (ahead == (unsent != 0)),
                ),
            )
        )
        self.ensure("no beat goes without an address", implies(axi.wvalid, (bursts + new) != 0))
        gap = Signal(3)
        m.d.sync += gap.eq(Mux((bursts != 0) & ~axi.wvalid, gap + 1, 0))
        self.ensure(QUICK, gap <= 1)

        # One beat of data.
        value = self.fixed(m, len(axi.wdata), "value")
        watch = Watch(
            self,
            m,
            enter=data.valid & data.ready,
            leave=sent & ~drain,
            most=2 * MAX_BURST + 1,
            matches=data.payload == value,
            forget=drain,
        )
        self.invariant(implies(~drain, watch.level == inner["buffer"].level))
        self.ensure(IN_TURN, implies(watch.due, axi.wdata == value))
        self.ensure(
            "a beat sent is a beat that came", implies(axi.wvalid & ~drain, watch.level != 0)
        )

        # One command.
        beats, offset = command.payload.beats, command.payload.offset
        taken = command.valid & command.ready
        bad = offset[:2].any() | (offset[2:] + beats > WINDOW_BYTES // DATA_BYTES) | (beats == 0)
        choose = self.free(m, 1, "choose_command")
        level, followed, before, owed = Signal(4), Signal(), Signal(4), Signal(8)
        need, wrong, whole = Signal(8), Signal(), Signal(3)
        m.d.sync += [
            level.eq(level + taken - dut.done),
            owed.eq(owed + Mux(taken, beats, 0) - sent),
        ]
        with m.If(taken & choose & ~followed):
            m.d.sync += [
                followed.eq(1),
                before.eq(level - dut.done),
                wrong.eq(bad),
                need.eq(owed + beats - sent),
                whole.eq(beats),
            ]
        with m.Elif(followed):
            m.d.sync += need.eq(Mux(sent & (need != 0), need - 1, need))
            with m.If(dut.done):
                m.d.sync += [before.eq(before - 1), followed.eq(before != 0)]
        with m.If(drain):
            m.d.sync += [level.eq(0), followed.eq(0), owed.eq(0)]
        finished = followed & dut.done & (before == 0)
        self.ensure(DONE, implies(finished, (need == 0)))
        self.ensure(REFUSED, ~(finished & wrong))
        self.ensure(COUNTED, implies(dut.done, level != 0))
        bus = Signal()
        m.d.sync += bus.eq(answered & axi.bresp[1] & ~drain & ~dut.abort)
        self.ensure("an error response is told", implies(bus, dut.fault.bus))
        self.ensure(IDLE, implies(dut.idle, ~axi.awvalid & (under_way == 0) & (bursts == 0)))
        # An abort ends: what is under way is answered, and nothing new begins.
        working = (level != 0) | ~dut.idle
        event = taken | sent | (axi.awvalid & axi.awready) | answered
        quiet = Quiet(m, generous & working & ~event & ~(drain & dut.idle), 15)
        self.ensure(STUCK, quiet.cycles <= 10)

        self.cover("a command of three bursts is done", finished & (whole > 2 * MAX_BURST))
        self.cover(
            "all bursts wait for responses", (under_way == OUTSTANDING) & (bodies == OUTSTANDING)
        )
        self.cover("refused with a burst under way", dut.fault.window & (under_way != 0))
        self.cover("an error, and then idle", dut.fault.bus & dut.idle)


PROOFS = (
    Proof(
        "write",
        Engine,
        (
            Control(
                "wlast a beat early",
                LAST,
                lambda: Engine(mutant(write, "last.eq(unsent == 2)", "last.eq(unsent != 2)")),
            ),
            Control(
                "a burst before its beats are there",
                QUICK,
                lambda: Engine(mutant(write, "(spare >= issuer.length)", "1")),
            ),
            Control(
                "no count of bursts",
                BURSTS,
                lambda: Engine(mutant(write, "& (bursts.under_way != self.outstanding)", "")),
            ),
        ),
        bounded={DONE: 16, REFUSED: 20, COUNTED: 20, STUCK: 22},
    ),
)
