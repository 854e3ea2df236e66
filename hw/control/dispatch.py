"""From the program to the units' queues."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from moesaic.hw.control.check import InstructionCheck
from moesaic.hw.interfaces import REGISTER_BITS, RawInstruction
from moesaic.hw.memory.skid import SkidBuffer
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Unit


def unit_bits(unit: Unit) -> int:
    """Bits of the longest instruction of ``unit``; checked instructions have none above."""
    return max(isa.used_bits(opcode) for opcode in Opcode if isa.UNIT_OF[opcode] is unit)


class Dispatcher(wiring.Component):
    """Checks instructions and deals them out to a queue of ``queue_depth`` per unit.

    Three stages that move together, one instruction per cycle while the queues have room. Stops
    for good at END and at the first malformed instruction, until reset.

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
        No queue holds an instruction.
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

        # Two stages of checks.
        taken, halfway = (
            Signal(RawInstruction, name=n, reset_less=True) for n in ("taken", "halfway")
        )
        checked = Signal(RawInstruction, reset_less=True)
        under_way = Signal(2)
        valid, good, done = Signal(), Signal(), Signal()
        m.d.comb += [
            check.raw.eq(taken),
            check.move.eq(self.instructions.ready),
            self.instructions.ready.eq((~valid | done) & ~self.ended & ~self.malformed),
        ]
        with m.If(self.instructions.ready):
            m.d.sync += [
                Cat(under_way, valid).eq(Cat(self.instructions.valid, under_way)),
                taken.eq(self.instructions.payload),
                halfway.eq(taken),
                checked.eq(halfway),
                good.eq(check.good),
            ]

        # The third: deal out. No unit's ready reaches a queue within the cycle.
        queues, outputs = {}, []
        for unit in Unit:
            bits = unit_bits(unit)
            queue = SyncFIFOBuffered(width=bits, depth=self.arch.queue_depth)
            m.submodules[f"queue{unit.value}"] = queues[unit] = queue
            output = SkidBuffer(bits)
            m.submodules[f"output{unit.value}"] = output
            outputs.append(output)
            port = getattr(self, f"queue{unit.value}")
            m.d.comb += [
                port.payload.eq(output.o.payload),
                port.valid.eq(output.o.valid),
                output.o.ready.eq(port.ready),
                queue.w_data.eq(checked[:bits]),
                output.i.payload.eq(queue.r_data),
                output.i.valid.eq(queue.r_rdy),
                queue.r_en.eq(output.i.ready),
            ]
        opcode = checked[: isa.HEADER[0].width]
        active = Signal()
        m.d.comb += [
            active.eq(valid & ~self.ended & ~self.malformed),
            self.busy.eq(valid | under_way.any()),
            self.dispatched.eq(done),
            self.empty.eq(
                Cat(queue.level == 0 for queue in queues.values()).all()
                & ~Cat(output.o.valid for output in outputs).any()
            ),
        ]
        with m.If(active & ~good):
            m.d.sync += self.malformed.eq(1)
        with m.Elif(active):
            with m.Switch(opcode):
                with m.Case(Opcode.END):
                    m.d.comb += done.eq(1)
                    m.d.sync += self.ended.eq(1)
                for unit, queue in queues.items():
                    opcodes = [o for o in Opcode if isa.UNIT_OF[o] is unit]
                    with m.Case(*opcodes):
                        m.d.comb += [queue.w_en.eq(1), done.eq(queue.w_rdy)]
        with m.If(done):
            m.d.sync += self.offset.eq(self.offset + isa.INSTRUCTION_BYTES)
        return m
