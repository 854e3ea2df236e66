"""The router's queues of tokens, one for each expert."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth import Cat, Module, Signal

from moesaic.hw.router import queues
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant


class Queues(Harness):
    """Entries in any order; one place of one queue is watched through one of the read ports."""

    def __init__(self, module=queues, port="matrix", experts=2, tokens=4) -> None:
        super().__init__()
        self.arch = SimpleNamespace(
            max_experts=experts, router_slots=experts, max_tokens=tokens, width=4
        )
        self.dut = module.ExpertQueues(self.arch)
        self.port = getattr(self.dut, port)

    def describe(self, m: Module) -> None:
        dut, port = self.dut, self.port
        tokens, experts = self.arch.max_tokens, self.arch.max_experts
        m.submodules.dut = Opened(dut)
        entry = dut.entry
        for name in ("row", "weight"):
            m.d.comb += entry[name].eq(self.free(m, len(entry[name]), f"entry_{name}"))
        goes = self.free(m, len(entry.experts), "entry_experts")
        m.d.comb += [
            entry.experts.eq(goes),
            dut.entry_valid.eq(self.free(m, 1, "entry_valid")),
            dut.clear.eq(self.free(m, 1, "clear")),
            port.expert.eq(self.free(m, len(port.expert), "read_expert")),
            port.index.eq(self.free(m, len(port.index), "read_index")),
        ]
        self.assume((goes & (goes - 1)) == 0)
        self.assume(entry.row < tokens)
        self.assume(port.expert < experts)
        expert = self.fixed(m, len(port.expert), "expert")
        place = self.fixed(m, len(port.index), "place")
        bit = self.fixed(m, 5, "bit")
        self.assume(expert < experts)
        self.assume(place < tokens)

        count, there, kept = Signal(range(tokens + 1)), Signal(2), Signal()
        put = dut.entry_valid & goes.bit_select(expert, 1) & (count != tokens)
        with m.If(dut.clear):
            m.d.sync += [count.eq(0), there.eq(0)]
        with m.Elif(put):
            m.d.sync += count.eq(count + 1)
            with m.If(count == place):
                m.d.sync += [there.eq(1), kept.eq(Cat(entry.row, entry.weight).bit_select(bit, 1))]
        with m.If(~dut.clear & (there == 1)):
            m.d.sync += there.eq(2)
        read, counted, before, was = Signal(), Signal(), Signal.like(count), Signal()
        m.d.sync += [
            read.eq((port.expert == expert) & (port.index == place) & (there == 2)),
            counted.eq(port.expert == expert),
            before.eq(count),
            was.eq(kept),
        ]
        self.ensure(
            "an entry is read where it was put, whatever others are",
            implies(read, Cat(port.token, port.weight).bit_select(bit, 1) == was),
        )
        self.ensure("count is the number of entries", implies(counted, port.count == before))
        self.ensure(
            "hit tells which queues hold entries", dut.hit.bit_select(expert, 1) == (count != 0)
        )
        self.cover(
            "a full queue read at its end", read & (before == tokens) & (place == tokens - 1)
        )
        self.cover("a queue behind a clear", read & (count == 1))


_PLACE = "an entry is read where it was put, whatever others are"

PROOFS = tuple(
    Proof(
        f"queues-{port}",
        lambda port=port: Queues(port=port),
        (
            Control(
                "an entry too many",
                _PLACE,
                lambda port=port: Queues(
                    mutant(queues, "entry.experts & ~full", "entry.experts"), port
                ),
            ),
            Control(
                "3 tokens, which ArchConfig refuses",
                _PLACE,
                lambda port=port: Queues(port=port, tokens=3),
            ),
        ),
    )
    for port in ("matrix", "vector")
)
