"""What load and store unit share: holding an instruction until its tokens are there."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import InstructionPort, instruction_layout
from moesaic.spec import isa


class TransferFrontend(wiring.Component):
    """Takes an instruction, waits for its tokens, and passes it on with its length in beats.

    Parameters
    ----------
    opcode
        The one opcode of the unit.

    Attributes
    ----------
    control
        Instructions in, tokens taken. The unit drives what the front end leaves alone:
        ``signal``, ``give``, ``busy`` and the counters' inputs.
    started
        Instructions that have their tokens.
    holding
        An instruction is here.
    lacking
        It lacks a token.
    """

    def __init__(self, opcode: isa.Opcode) -> None:
        self.layout = instruction_layout(opcode)
        super().__init__(
            {
                "queue": In(InstructionPort().members["queue"].signature),
                "wait": Out(isa.UNIT_COUNT),
                "want": Out(1),
                "granted": In(1),
                "take": Out(1),
                "started": Out(stream.Signature(self.layout)),
                "holding": Out(1),
                "lacking": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(self.layout, reset_less=True)
        granted = Signal()  # the tokens of the held instruction are taken
        passed = Signal()
        m.d.comb += [
            passed.eq(self.started.valid & self.started.ready),
            self.queue.ready.eq(~self.holding),
            self.wait.eq(held.wait),
            self.want.eq(self.holding & ~granted),
            self.take.eq(self.holding & ~granted & self.granted),
            self.lacking.eq(self.holding & ~granted & ~self.granted),
            self.started.valid.eq(self.holding & (granted | self.granted)),
            self.started.payload.eq(held),
        ]
        with m.If(self.take):
            m.d.sync += granted.eq(1)
        with m.If(passed):
            m.d.sync += self.holding.eq(0)
        with m.If(self.queue.ready):
            m.d.sync += [self.holding.eq(self.queue.valid), granted.eq(0)]
            m.d.sync += held.eq(self.queue.payload)
        return m
