"""From the program to the units' queues."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from moesaic.hw.control.check import InstructionCheck
from moesaic.hw.interfaces import REGISTER_BITS, RawInstruction
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Unit


def unit_bits(unit: Unit) -> int:
    """Bits of the longest instruction of ``unit``; checked instructions have none above."""
    return max(isa.used_bits(opcode) for opcode in Opcode if isa.UNIT_OF[opcode] is unit)


class Dispatcher(wiring.Component):
    """Checks instructions and deals them out to a queue of ``queue_depth`` per unit.

    One instruction every other cycle while the queues have room, in four stages. Stops for good
    at END and at the first malformed instruction, until reset.

    Attributes
    ----------
    instructions
        The program.
    queue<u>
        Instructions of unit u.
    dispatched
        An instruction has left for its queue, or is END.
    ended
        END has been reached; all instructions before it are in their queues or beyond.
    empty
        No queue held an instruction in the cycle before.
    busy
        An instruction is between the program and its queue.
    malformed
        The instruction at byte ``offset`` may not be dispatched.
    offset
        Byte offset in the program of the instruction that is dispatched next.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "instructions": In(stream.Signature(RawInstruction)),
                **{f"queue{u.value}": Out(stream.Signature(RawInstruction)) for u in Unit},
                "dispatched": Out(1),
                "ended": Out(1),
                "empty": Out(1),
                "busy": Out(1),
                "malformed": Out(1),
                "offset": Out(REGISTER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.check = check = InstructionCheck(self.arch)

        # Three stages of checks. They and what comes before them move when the register behind
        # them is empty.
        layout = data.StructLayout({"raw": RawInstruction, "unit": len(Unit), "end": 1, "good": 1})
        checked, valid, done = Signal(layout, reset_less=True), Signal(), Signal()
        taken, looked_at, halfway = (
            Signal(RawInstruction, name=n, reset_less=True)
            for n in ("taken", "looked_at", "halfway")
        )
        under_way = Signal(3)
        # Beside `valid`, and its inverse: every bit of the stages hangs on it. Nothing else does.
        move = Signal(init=1)
        m.d.comb += [
            check.raw.eq(taken),
            check.move.eq(move),
            self.instructions.ready.eq(~valid),
        ]
        with m.If(done):
            m.d.sync += [valid.eq(0), move.eq(1)]
        with m.If(move):
            m.d.sync += [
                Cat(under_way, valid).eq(Cat(self.instructions.valid, under_way)),
                move.eq(~under_way[-1]),
                taken.eq(self.instructions.payload),
                looked_at.eq(taken),
                halfway.eq(looked_at),
                checked.raw.eq(halfway),
                checked.good.eq(check.good),
                checked.end.eq(halfway[: isa.HEADER[0].width] == Opcode.END),
            ]
            for unit in Unit:
                mine = [o for o in Opcode if isa.UNIT_OF[o] is unit]
                opcode = halfway[: isa.HEADER[0].width]
                m.d.sync += checked.unit[unit.value].eq(opcode.matches(*mine))

        # The third: deal out. Every unit takes by a register of its own.
        queues = {}
        for unit in Unit:
            bits = unit_bits(unit)
            queue = SyncFIFOBuffered(width=bits, depth=self.arch.queue_depth)
            m.submodules[f"queue{unit.value}"] = queues[unit] = queue
            port = getattr(self, f"queue{unit.value}")
            m.d.comb += [
                port.payload.eq(queue.r_data),
                port.valid.eq(queue.r_rdy),
                queue.r_en.eq(port.ready),
                queue.w_data.eq(checked.raw[:bits]),
            ]
        active = Signal()
        m.d.comb += [
            active.eq(valid & ~self.ended & ~self.malformed),
            self.busy.eq(valid | under_way.any()),
            self.dispatched.eq(done),
        ]
        m.d.sync += self.empty.eq(Cat(queue.level == 0 for queue in queues.values()).all())
        dealt = [checked.unit[unit.value] & queue.w_rdy for unit, queue in queues.items()]
        with m.If(active & ~checked.good):
            m.d.sync += self.malformed.eq(1)
        with m.Elif(active):
            m.d.comb += done.eq(checked.end | Cat(dealt).any())
            m.d.sync += self.ended.eq(checked.end)
            for unit, queue in queues.items():
                m.d.comb += queue.w_en.eq(checked.unit[unit.value])
        with m.If(done):
            m.d.sync += self.offset.eq(self.offset + isa.INSTRUCTION_BYTES)
        return m
