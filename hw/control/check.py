"""Which instructions are well-formed."""

from __future__ import annotations

from functools import reduce
from operator import xor

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import RawInstruction
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode


class InstructionCheck(wiring.Component):
    """Says whether an instruction may be dispatched, two moves later.

    Refused are: a wrong check byte, an unknown opcode, a reserved bit, a zero where the
    instruction set forbids it, a value outside an enumeration, an expert that this architecture
    has no queue for, a routing it has no room for, and a byte offset of LOAD or STORE that is
    not a multiple of the data port's beat.

    Attributes
    ----------
    raw, move
        The instruction, and whether it moves on in this cycle.
    good
        The one that moved on before the last one is well-formed; until the next one moves.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__({"raw": In(RawInstruction), "move": In(1), "good": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # First what each opcode would forbid, then what this one does.
        opcode_bits = isa.HEADER[0].width
        check, kind = Signal(8, reset_less=True), Signal(opcode_bits, reset_less=True)
        sums = [self.raw.word_select(i, 8) for i in range(isa.INSTRUCTION_BYTES)]
        violations = {opcode: self._violations(opcode) for opcode in Opcode}
        violated = {
            opcode: Signal(len(found), name=f"violated_{opcode.name.lower()}", reset_less=True)
            for opcode, found in violations.items()
        }
        # Of each opcode: it is this one, and nothing is violated.
        legal = Signal(len(Opcode), reset_less=True)
        intact = Signal(reset_less=True)
        with m.If(self.move):
            m.d.sync += [
                check.eq(reduce(xor, sums)),
                kind.eq(self.raw[:opcode_bits]),
                intact.eq(check == isa.CHECK_VALUE),
            ]
            for bit, (opcode, signal) in zip(legal, violated.items(), strict=True):
                m.d.sync += [
                    signal.eq(Cat(violations[opcode])),
                    bit.eq((kind == opcode) & ~signal.any()),
                ]
        m.d.comb += self.good.eq(intact & legal.any())
        return m

    def _violations(self, opcode: Opcode) -> list[Value]:
        """One-bit values, each of which makes an instruction of this opcode malformed."""

        def value(name: str) -> Value:
            start, width = isa.positions(opcode)[name]
            return self.raw[start : start + width]

        found = [self.raw[isa.used_bits(opcode) :].any()]
        for field in isa.fields(opcode):
            if field.nonzero:
                found.append(~value(field.name).any())
            if field.nonzero_unless:
                found.append(~value(field.name).any() & ~value(field.nonzero_unless).any())
            listed = isa.listed(opcode, field.name, self.arch.four_bit_weights)
            if listed and len(listed) < 1 << field.width:
                found.append(~value(field.name).matches(*listed))
            if field.name == "expert":
                found.append(value("expert") >= self.arch.max_experts)
        if opcode is Opcode.ROUTE:
            found += [
                value("experts") > self.arch.max_experts,
                value("top_k") > value("experts"),
                value("first_row") + value("rows") > self.arch.max_tokens,
            ]
        if opcode in (Opcode.LOAD, Opcode.STORE):
            store = opcode is Opcode.STORE
            line = self.arch.output_line_bytes if store else self.arch.data_port_bytes
            found.append(value("offset")[: line.bit_length() - 1].any())
        return found
