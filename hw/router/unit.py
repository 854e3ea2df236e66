"""The router unit: ROUTE instructions, from logits to expert queues."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import (
    InstructionPort,
    QueueRead,
    RouterState,
    instruction_layout,
    logit_layout,
)
from moesaic.hw.router.queues import ExpertQueues
from moesaic.hw.router.scores import Scores
from moesaic.hw.router.selector import Selector
from moesaic.hw.router.weights import GateWeights
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig


class RouterUnit(wiring.Component):
    """Chooses experts and gate weights as ``semantics.route`` does, and fills the queues.

    Tokens stream: each takes ``max(chunks + 1, top_k, rank_cycles)`` cycles, and those
    of the instruction are given about ``46 + rank_cycles + 2 * top_k`` cycles after the
    last chunk. Corrected, a token takes at least a cycle per expert, and the last one
    ``CORRECTED_LATENCY`` more. Logits that arrive before their ROUTE has started wait.

    Attributes
    ----------
    control
        Instructions and tokens.
    logits
        Chunks of logits in token order.
    state
        The last finished routing.
    matrix, vector
        Read ports of the queues; what they show is undefined while a ROUTE runs.
    routed_tokens
        Counter event.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "control": In(InstructionPort()),
                "logits": In(stream.Signature(logit_layout(arch))),
                "state": Out(RouterState(arch)),
                "matrix": In(QueueRead(arch)),
                "vector": In(QueueRead(arch)),
                "routed_tokens": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch, control = self.arch, self.control
        m.submodules.scores = scores = Scores(arch)
        m.submodules.selector = selector = Selector(arch)
        m.submodules.weights = weights = GateWeights(arch)
        m.submodules.queues = queues = ExpertQueues(arch)
        for name in ("matrix", "vector"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(queues, name))

        # One instruction at a time.
        layout = instruction_layout(isa.Opcode.ROUTE)
        current = Signal(layout)
        held, running, finished = Signal(), Signal(), Signal()
        m.d.comb += [
            control.queue.ready.eq(~held),
            control.wait.eq(current.wait),
            control.want.eq(held & ~running),
            control.take.eq(held & ~running & control.granted),
        ]
        with m.If(control.queue.valid & ~held):
            m.d.sync += [held.eq(1), current.eq(control.queue.payload[: layout.size])]

        # Tokens still to be collected, and still to be written to the queues.
        to_collect, to_write = Signal(len(current.rows)), Signal(len(current.rows))
        row = Signal(len(current.first_row))
        collecting = Signal()  # running, and there are more
        correcting = Signal()  # and corrections come first
        with m.If(control.take):
            m.d.sync += [
                collecting.eq(1),
                correcting.eq(current.corrected),
                running.eq(1),
                row.eq(current.first_row),
                to_collect.eq(current.rows),
                to_write.eq(current.rows),
            ]
        m.d.comb += [
            queues.clear.eq(control.take),
            scores.logits.valid.eq(self.logits.valid & collecting),
            scores.logits.payload.eq(self.logits.payload),
            self.logits.ready.eq(scores.logits.ready & collecting),
            scores.corrected.eq(current.corrected),
            scores.experts.eq(current.experts),
            scores.multiplier.eq(current.multiplier),
            scores.shift.eq(current.shift),
            scores.begin.eq(control.take),
            scores.expert.eq(weights.expert),
            weights.correction.eq(scores.correction),
            weights.corrected.eq(current.corrected),
            selector.experts.eq(current.experts),
            selector.top_k.eq(current.top_k),
            selector.row.eq(row),
        ]
        wiring.connect(m, scores.keys, selector.logits)
        with m.If(self.logits.valid & self.logits.ready & self.logits.payload.last):
            m.d.sync += correcting.eq(0)
            with m.If(~correcting):
                m.d.sync += [to_collect.eq(to_collect - 1), collecting.eq(to_collect != 1)]
        # A token lasts two cycles at least, so that its row may change a cycle late.
        counts = Signal()
        m.d.sync += counts.eq(selector.token)
        with m.If(counts):
            m.d.sync += row.eq(row + 1)

        m.d.comb += [
            weights.choice.eq(selector.choice),
            weights.choice_valid.eq(selector.choice_valid),
            weights.group.eq(selector.group),
            weights.group_valid.eq(selector.group_valid),
            weights.renormalise.eq(current.renormalise),
            weights.sigmoid.eq(current.sigmoid),
            weights.multiplier.eq(current.multiplier),
            weights.shift.eq(current.shift),
            queues.entry.eq(weights.entry),
            queues.entry_valid.eq(weights.entry_valid),
            self.routed_tokens.eq(weights.entry_valid & weights.entry.last),
        ]
        with m.If(self.routed_tokens):
            m.d.sync += to_write.eq(to_write - 1)

        # Publish, then give the tokens when everybody can see it.
        publish = Signal()
        m.d.comb += publish.eq(running & ~to_write.any() & ~finished)
        m.d.sync += finished.eq(publish)
        with m.If(publish):
            m.d.sync += [self.state.sequence.eq(current.sequence), self.state.hit.eq(queues.hit)]
        with m.If(finished):
            m.d.sync += [held.eq(0), running.eq(0)]

        under_way = Signal()
        m.d.comb += [
            under_way.eq((to_write != to_collect) | publish | finished),
            control.give.eq(finished),
            control.signal.eq(current.signal),
            control.busy.eq(control.queue.valid | held),
            control.working.eq(running & (under_way | self.logits.valid)),
            control.stalled.eq(running & ~under_way & ~self.logits.valid),
            control.wait_token.eq(held & ~running & ~control.granted),
        ]
        return m
