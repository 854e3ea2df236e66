"""Storage of the expert queues, with one read port for each unit that follows them."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import QueueRead
from moesaic.hw.memory.ram import Ram
from moesaic.hw.router.weights import entry_layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import GATE_BITS


class ExpertQueues(wiring.Component):
    """``max_experts`` queues of up to ``max_tokens`` entries, in one memory per read port.

    An entry can be read 2 cycles after it was put. Entries beyond ``max_tokens`` are lost: they
    must not run over into the next expert's queue.

    Attributes
    ----------
    entry, entry_valid
        An entry to append.
    clear
        Empty all queues.
    matrix, vector
        Read ports.
    hit
        Which queues hold entries.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "entry": In(entry_layout(arch)),
                "entry_valid": In(1),
                "clear": In(1),
                "matrix": In(QueueRead(arch)),
                "vector": In(QueueRead(arch)),
                "hit": Out(arch.max_experts),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch, entry = self.arch, self.entry
        experts, tokens = arch.max_experts, arch.max_tokens
        expert_bits, token_bits = (experts - 1).bit_length(), (tokens - 1).bit_length()
        counts = Array(Signal(range(tokens + 1), name=f"count_{e}") for e in range(experts))
        full = Signal(experts)  # beside the counts

        # Where the entry goes; one cycle later it is written. Each count has its own adder: none
        # waits for the one that is chosen.
        put = Signal(experts)
        count, expert = Signal(range(tokens)), Signal(max(1, expert_bits))
        address = Signal(max(1, expert_bits + token_bits), reset_less=True)
        word = Signal(token_bits + GATE_BITS, reset_less=True)
        write = Signal()
        m.d.comb += [
            put.eq(Mux(self.entry_valid, entry.experts & ~full, 0)),
            count.eq(reduce(or_, (Mux(entry.experts[e], counts[e], 0) for e in range(experts)))),
            expert.eq(reduce(or_, (Mux(entry.experts[e], e, 0) for e in range(experts)))),
        ]
        m.d.sync += [
            write.eq(put.any()),
            address.eq(Cat(count[:token_bits], expert[:expert_bits])),
            word.eq(Cat(entry.row[:token_bits], entry.weight)),
        ]
        for e, register in enumerate(counts):
            with m.If(self.clear):
                m.d.sync += [register.eq(0), full[e].eq(0)]
            with m.Elif(put[e]):
                m.d.sync += [register.eq(register + 1), full[e].eq(register == tokens - 1)]
        m.d.comb += self.hit.eq(Cat(register != 0 for register in counts))

        for name in ("matrix", "vector"):
            port = getattr(self, name)
            ram = Ram(token_bits + GATE_BITS, experts * tokens)
            m.submodules[f"{name}_copy"] = ram
            wanted = port.expert[:expert_bits]
            m.d.sync += port.count.eq(counts[wanted] if expert_bits else counts[0])
            m.d.comb += [
                ram.write_enable.eq(write),
                ram.write_address.eq(address),
                ram.write_data.eq(word),
                ram.read_address.eq(Cat(port.index[:token_bits], wanted)),
                port.token.eq(ram.read_data[:token_bits]),
                port.weight.eq(ram.read_data[token_bits:]),
            ]
        return m
