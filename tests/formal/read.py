"""The AXI4 read engine, in front of a memory that keeps AXI4's rules."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal

from moesaic.hw.axi import read
from tests.formal.harness import Control, Harness, Proof, implies, mutant
from tests.formal.memory import Subordinate
from tests.formal.streams import Watch, hold

DATA_BYTES, MAX_BURST, OUTSTANDING, WINDOW_BYTES = 4, 2, 2, 32
BURSTS = f"never more than {OUTSTANDING} bursts"


MARKED = "a command's last beat is marked, and no other"
REFUSED = "a refused command gets no data"
COUNTED = "nothing comes without a command"
IDLE = "idle is up only with nothing on the bus or in the stream"
FORGOTTEN = "idle is up only without a command, or in a drain"
STUCK = "never stuck: data, an address or a fault within 8 cycles"


class Engine(Harness):
    """Commands of any kind; a memory and a taker of data with any pauses."""

    def __init__(self, module=read) -> None:
        super().__init__()
        self.dut = module.ReadEngine(
            DATA_BYTES, offset_bits=6, beats_bits=3, max_burst=MAX_BURST, outstanding=OUTSTANDING
        )

    def describe(self, m: Module) -> None:
        dut = self.dut
        m.submodules.dut = dut
        axi, command, data = dut.axi, dut.command, dut.data
        generous = self.free(m, 1, "generous")
        memory = Subordinate(self, m, axi, OUTSTANDING, generous=generous)
        m.d.comb += [
            command.valid.eq(self.free(m, 1, "offered")),
            command.payload.offset.eq(self.free(m, 6, "offset")),
            command.payload.beats.eq(self.free(m, 3, "beats")),
            dut.window.base.eq(0),
            dut.window.size.eq(WINDOW_BYTES),
            data.ready.eq(self.free(m, 1, "take")),
            dut.abort.eq(self.free(m, 1, "abort")),
        ]
        draining = Signal()
        m.d.sync += draining.eq(dut.abort & ~dut.idle)
        self.assume(implies(draining, dut.abort))
        self.assume(implies(generous, data.ready))
        aborted = Signal()
        m.d.sync += aborted.eq(dut.abort)
        drain = aborted | dut.fault.window | dut.fault.bus
        first, beats = command.payload.offset, command.payload.beats
        bad = first[:2].any() | (first[2:] + beats > WINDOW_BYTES // DATA_BYTES)
        taken = command.valid & command.ready
        given = data.valid & data.ready
        ended = given & data.payload.last

        # One command, and its beats.
        choose = self.free(m, 1, "choose")
        level, marked, ahead, left, wrong = Signal(4), Signal(), Signal(4), Signal(3), Signal()
        whole = Signal(3)
        enter = taken & (bad | (beats != 0))
        m.d.sync += level.eq(level + enter - ended)
        with m.If(enter & choose & ~marked):
            m.d.sync += [
                marked.eq(1),
                ahead.eq(level - ended),
                left.eq(beats),
                wrong.eq(bad),
                whole.eq(beats),
            ]
        with m.If(marked & ended):
            m.d.sync += ahead.eq(ahead - 1)
        turn = marked & (ahead == 0) & given
        with m.If(turn):
            m.d.sync += left.eq(left - 1)
            with m.If(data.payload.last):
                m.d.sync += [marked.eq(0), ahead.eq(0)]
        with m.If(drain):
            m.d.sync += [level.eq(0), marked.eq(0)]
        self.ensure(MARKED, implies(turn, data.payload.last == (left == 1)))
        self.ensure(REFUSED, ~(turn & wrong))
        self.ensure(COUNTED, implies(given & ~drain, level != 0))

        # One beat.
        value = self.fixed(m, len(axi.rdata), "value")
        crossed = axi.rvalid & axi.rready
        watch = Watch(
            self,
            m,
            enter=crossed & ~drain & ~axi.rresp[1],
            leave=given,
            most=2,
            matches=axi.rdata == value,
            forget=drain,
        )
        self.ensure(
            "data come in order, none twice", implies(watch.due, data.payload.data == value)
        )
        self.ensure("a beat given is a beat that came", implies(data.valid, watch.level != 0))
        self.ensure(
            "a beat offered stands until it is taken",
            hold(self, m, data.valid, data.ready, data.payload, "data", drain),
        )

        # The address channel, and what is under way.
        self.ensure(
            "an address stands until it is taken",
            hold(self, m, axi.arvalid, axi.arready, Cat(axi.araddr, axi.arlen), "ar"),
        )
        self.ensure(BURSTS, memory.level + axi.arvalid <= OUTSTANDING)
        self.ensure("beat is a beat on the bus", dut.beat == crossed)
        self.ensure(IDLE, implies(dut.idle, (memory.level == 0) & ~axi.arvalid & ~data.valid))
        self.ensure(FORGOTTEN, implies(dut.idle & ~drain, level == 0))
        self.ensure("a drain takes what comes", implies(drain, axi.rready))
        fell = Signal(2)
        m.d.sync += fell.eq(Cat(dut.fault.window, dut.fault.bus) & ~dut.abort.replicate(2))
        self.ensure(
            "a fault stays up until abort", (fell & ~Cat(dut.fault.window, dut.fault.bus)) == 0
        )
        bus = Signal()
        m.d.sync += bus.eq(crossed & axi.rresp[1] & ~drain & ~dut.abort)
        self.ensure("an error response is told", implies(bus, dut.fault.bus))

        # With a memory and a taker that never pause, something happens within a few cycles.
        quiet = Signal(5)
        with m.If(
            generous
            & ((level != 0) | ~dut.idle)
            & ~given
            & ~crossed
            & ~taken
            & ~(axi.arvalid & axi.arready)
            & ~dut.fault.window
            & ~dut.fault.bus
            & ~dut.abort
            & ~aborted
        ):
            m.d.sync += quiet.eq(Mux(quiet == 31, 31, quiet + 1))
        with m.Else():
            m.d.sync += quiet.eq(0)
        self.ensure(STUCK, quiet <= 8)

        self.cover(
            "a command of three bursts is done", turn & data.payload.last & (whole > 2 * MAX_BURST)
        )
        self.cover("all bursts under way", memory.level == OUTSTANDING)
        self.cover("refused", dut.fault.window)
        self.cover("an error, and then idle", dut.fault.bus & dut.idle)


PROOFS = (
    Proof(
        "read",
        Engine,
        (
            Control(
                "rready while the skid is full",
                "data come in order, none twice",
                lambda: Engine(
                    mutant(read, "axi.rready.eq(beats.ready | drain)", "axi.rready.eq(1)")
                ),
            ),
            Control(
                "every burst ends a command",
                MARKED,
                lambda: Engine(mutant(read, "bursts.final.eq(issuer.final)", "bursts.final.eq(1)")),
            ),
            Control(
                "no count of bursts",
                BURSTS,
                lambda: Engine(
                    mutant(
                        read,
                        "room.eq(bursts.under_way != self.outstanding)",
                        "room.eq(1)",
                    )
                ),
            ),
            Control(
                "bursts that are never done",
                STUCK,
                lambda: Engine(
                    mutant(read, "bursts.done.eq(self.beat & axi.rlast)", "bursts.done.eq(0)")
                ),
            ),
        ),
        bounded={MARKED: 14, REFUSED: 16, COUNTED: 18, FORGOTTEN: 18, STUCK: 20},
    ),
)
