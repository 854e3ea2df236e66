"""Several read masters on one AXI4 read port."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal

from moesaic.hw.axi import arbiter
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant
from tests.formal.memory import Subordinate
from tests.formal.streams import hold

DATA_BYTES = 4
OWNER = "a burst's data go to the master that asked for it, and to no other"


class Arbiter(Harness):
    """Two masters that keep AXI4's rules; one burst of either is watched to its last beat."""

    size = "4-byte beats, 2 masters, 4 bursts"

    def __init__(self, module=arbiter, bursts: int = 4) -> None:
        super().__init__()
        self.dut = module.ReadArbiter(DATA_BYTES, 2, bursts)

    def describe(self, m: Module) -> None:
        dut, axi = self.dut, self.dut.axi
        m.submodules.dut = inner = Opened(dut)
        masters = (dut.master0, dut.master1)
        Subordinate(self, m, axi, dut.outstanding)
        for n, port in enumerate(masters):
            for name in ("araddr", "arlen", "arvalid", "rready"):
                target = getattr(port, name)
                m.d.comb += target.eq(self.free(m, len(target), f"{name}{n}"))
            self.assume(
                hold(self, m, port.arvalid, port.arready, Cat(port.araddr, port.arlen), f"ar{n}")
            )
        # What a master asks for is in its skid buffer first (a proof of its own): from there on.
        waiting = inner["waiting"]
        asked = [port.valid & port.ready for port in waiting]
        ended = axi.rvalid & axi.rready & axi.rlast
        choose = self.free(m, 1, "choose")
        level, marked, ahead, owner = Signal(4), Signal(), Signal(4), Signal()
        sent, wait = Signal(), Signal(4)
        address, length = Signal(len(axi.araddr)), Signal(8)
        out = axi.arvalid & axi.arready
        m.d.sync += level.eq(level + asked[0] + asked[1] - ended)
        with m.If((asked[0] | asked[1]) & choose & ~marked):
            m.d.sync += [
                marked.eq(1),
                owner.eq(asked[1]),
                ahead.eq(level - ended),
                sent.eq(0),
                wait.eq(axi.arvalid & ~axi.arready),
                address.eq(Mux(asked[1], waiting[1].payload.araddr, waiting[0].payload.araddr)),
                length.eq(Mux(asked[1], waiting[1].payload.arlen, waiting[0].payload.arlen)),
            ]
        with m.Elif(marked):
            m.d.sync += [ahead.eq(ahead - ended), wait.eq(wait - (out & (wait != 0)))]
            with m.If(out & (wait == 0)):
                m.d.sync += sent.eq(1)
            with m.If(ended & (ahead == 0)):
                m.d.sync += marked.eq(0)
        turn = marked & (ahead == 0) & axi.rvalid
        other, mine = (
            Mux(owner, masters[0].rvalid, masters[1].rvalid),
            Mux(owner, masters[1].rvalid, masters[0].rvalid),
        )
        self.ensure("one master at a time is taken", ~(asked[0] & asked[1]))
        self.ensure(OWNER, implies(turn, mine & ~other))
        self.ensure(
            "a beat waits for the master whose it is",
            implies(turn, axi.rready == Mux(owner, masters[1].rready, masters[0].rready)),
        )
        self.ensure(
            "addresses go out as they came, in order",
            implies(
                marked & ~sent & out & (wait == 0), (axi.araddr == address) & (axi.arlen == length)
            ),
        )
        self.ensure(
            "an address stands until it is taken",
            hold(self, m, axi.arvalid, axi.arready, Cat(axi.araddr, axi.arlen), "ar"),
        )
        self.ensure(f"never more than {dut.outstanding} bursts", level <= dut.outstanding)
        self.ensure("lower masters first", ~(asked[1] & waiting[0].valid))
        for n, port in enumerate(masters):
            self.ensure(
                f"data of master {n} are those of the bus",
                (port.rdata == axi.rdata) & (port.rlast == axi.rlast),
            )
        self.cover(
            "all bursts under way, the watched one the last",
            (level == dut.outstanding) & (ahead == dut.outstanding - 1) & owner,
        )
        self.cover("a burst of master 1 in its turn", turn & owner & axi.rready)


PROOFS = (
    Proof(
        "arbiter",
        Arbiter,
        (
            Control(
                "owners in the wrong order",
                OWNER,
                lambda: Arbiter(mutant(arbiter, "owners.r_data[i]", "owners.w_data[i]")),
            ),
            Control(
                "no count of bursts",
                OWNER,
                lambda: Arbiter(mutant(arbiter, "& owners.w_rdy", "")),
            ),
        ),
    ),
)
