"""Takes instructions and issues chunks: the only part of the vector unit that ever waits."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.interfaces import EXPERT_BITS, InstructionPort, instruction_layout
from moesaic.hw.memory.half import HalfBuffer
from moesaic.hw.vector.events import STALLS, EventCounter, VectorEvents
from moesaic.hw.vector.lanes import Lanes
from moesaic.hw.vector.normaliser import Normaliser
from moesaic.hw.vector.operation import (
    INSTRUCTION_BITS,
    NORM,
    PAIR_KINDS,
    PARAMETER_KINDS,
    ROTARY_KINDS,
    ROW_BITS,
    ROWS_OUTSIDE_KINDS,
    WIDE_KINDS,
    is_any,
    issue_layout,
    kinds_of,
)
from moesaic.hw.vector.output import OutputStage
from moesaic.hw.vector.walker import Walker
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import Function, Operand
from moesaic.spec.isa import UNIT_COUNT, Opcode


def view(opcode: Opcode, raw: Value) -> data.View:
    """The fields of an instruction."""
    layout = instruction_layout(opcode)
    return data.View(layout, raw[: layout.size])


class Sequencer(wiring.Component):
    """One instruction at a time; the first chunk is issued three cycles after it was taken, at
    best.

    The next instruction is taken in the cycle after the last chunk's issue, while earlier chunks
    are in the pipeline.

    Attributes
    ----------
    control
        Instructions and tokens; ``given`` and ``given_signal`` come from the output stage.
    held
        The instruction; valid in the cycle of an issue and the next one.
    queue_expert, queue_count
        Expert queue look-up.
    full, release, address
        Accumulator bank.
    available, some, block, consume, amount
        Parameter blocks; ``some``: there is one; so many are consumed.
    room
        Of the output stage.
    scale_ready, scale_release
        Row scales for ATTENTION.
    statistics_ready, statistics_take, sum, sum_first, sum_last, sum_address, residual_address
        The two passes of NORM; the second one reads ``residual_address``.
    started
        An instruction was taken in the cycle before; its fields are there.
    issue
        The chunk that enters the pipeline in this cycle.
    events, vector_wait_...
        Performance counters.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        blocks = arch.parameter_blocks
        super().__init__(
            {
                "control": In(InstructionPort()),
                "given": In(1),
                "given_signal": In(UNIT_COUNT),
                "held": Out(INSTRUCTION_BITS),
                "queue_expert": Out(EXPERT_BITS),
                "queue_count": In(range(arch.max_tokens + 1)),
                "full": In(1),
                "release": Out(1),
                "address": Out(range(arch.accumulator_rows)),
                "available": In(range(blocks + 1)),
                "some": In(1),
                "block": Out(range(blocks)),
                "consume": Out(1),
                "amount": Out(range(blocks + 1)),
                "room": In(1),
                "scale_ready": In(1),
                "scale_release": Out(1),
                "statistics_ready": In(1),
                "statistics_take": Out(1),
                "sum": Out(1),
                "sum_first": Out(1),
                "sum_last": Out(1),
                "sum_address": Out(range(arch.residual_words)),
                "residual_address": Out(range(arch.residual_words)),
                "issue": Out(issue_layout(arch)),
                "started": Out(1),
                "events": Out(VectorEvents(arch)),
                **{name: Out(1) for name in STALLS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        m.submodules.walker = walker = Walker(arch)
        m.submodules.normaliser = normaliser = Normaliser(arch)
        m.submodules.event_counter = events = EventCounter(arch)
        connect(m, flipped(self.events), events.events)
        drain, norm = view(Opcode.DRAIN, self.held), view(Opcode.NORM, self.held)
        # What the held instruction is, decoded when it is taken.
        kind = Signal(
            data.StructLayout(
                {
                    "norm": 1,
                    "parameters": 1,
                    "rows_outside": 1,
                    "residual": 1,
                    "softmax": 1,
                    "attention": 1,
                    "active": 1,
                    "paired": 1,
                    "rotary": 1,
                    **({"both": 1} if arch.chunk_pairs else {}),
                }
            )
        )
        ended, end = Signal(), Signal.like(walker.end)
        # A chunk that is rotated comes twice; this is the last time.
        last_time, goes = Signal(), Signal()
        consumes = Signal()  # it is, and the instruction has parameters
        # Beside `set_up`: which of the two begins.
        drains, normalises = Signal(), Signal()
        set_up, take, is_drain, rotary, parameters = self._take_instructions(m, kind, ended, end)
        m.d.comb += self.started.eq(set_up)
        m.d.sync += [drains.eq(take & is_drain), normalises.eq(take & ~is_drain)]

        rows, rows_now = Signal(ROW_BITS), Signal(ROW_BITS)
        m.d.comb += rows_now.eq(Mux(drain.predicated, self.queue_count, drain.rows))
        with m.If(set_up):
            m.d.sync += rows.eq(rows_now)
        m.d.comb += [
            walker.start.eq(drains),
            walker.rows.eq(Mux(set_up, rows_now, rows)),
            walker.kind.eq(drain.kind),
            walker.n_tiles.eq(drain.n_tiles),
            walker.groups.eq(drain.groups),
            walker.columns.eq(drain.columns),
            walker.end.eq(end),
            walker.rows_outside.eq(kind.rows_outside),
            walker.paired.eq(kind.paired | kind.rotary),
            *([walker.both.eq(kind.both)] if arch.chunk_pairs else []),
            normaliser.start.eq(normalises),
            normaliser.rows.eq(norm.rows),
            normaliser.words.eq(norm.words),
            normaliser.source_base.eq(norm.source_base),
            normaliser.source_stride.eq(norm.source_stride),
        ]

        step = walker.step
        m.d.comb += ended.eq(
            (walker.advance & step.last) | (normaliser.normalise & normaliser.last)
        )
        ready, hazard, lacking = Signal(), Signal(), Signal()
        settled = self._track_updates(m, walker, kind, set_up, hazard)
        # Blocks only become more while an instruction that needs several of them is here, so it
        # waits for all of them; of the others each step takes the oldest.
        all_there = Signal()
        m.d.sync += all_there.eq(self.available >= drain.n_tiles)
        m.d.comb += [
            lacking.eq(kind.parameters & ~Mux(kind.rows_outside, all_there, self.some)),
            self.block.eq(Mux(walker.rows_outside, step.tile, 0)),
            ready.eq(self.full & ~lacking & (~kind.attention | self.scale_ready) & ~hazard),
            goes.eq(walker.valid & (self.room | ~step.place) & (step.empty | ready)),
            walker.advance.eq(goes & last_time),
            self.address.eq(step.address),
            # As `advance`, of a step that is not empty: the accumulators' turn hangs on it.
            self.release.eq(
                walker.valid
                & (self.room | ~step.place)
                & ready
                & (step.group_last & ~step.empty & last_time)
            ),
            self.scale_release.eq(walker.advance & step.last & ~step.empty & kind.attention),
            normaliser.may_sum.eq(settled),
            normaliser.may_normalise.eq(self.statistics_ready & self.room),
            self.statistics_take.eq(normaliser.normalise & normaliser.row_last),
            self.sum.eq(normaliser.sum),
            self.sum_first.eq(normaliser.sum_first),
            self.sum_last.eq(normaliser.sum_last),
            self.sum_address.eq(normaliser.sum_address),
            self.residual_address.eq(normaliser.address),
        ]
        with m.If(take):
            m.d.sync += [last_time.eq(~rotary), consumes.eq(parameters & ~rotary)]
        with m.Elif(goes & kind.rotary):
            m.d.sync += [last_time.eq(~last_time), consumes.eq(~last_time)]
        # As `advance` too, of a step that is not empty.
        m.d.comb += self.consume.eq(
            walker.valid
            & (self.room | ~step.place)
            & ready
            & (consumes & ~step.empty & Mux(kind.rows_outside, step.last, step.tile_last))
        )

        bit = arch.lanes.bit_length() - 1
        second = step.column[bit]  # chunk of a pair
        with m.If(kind.norm):
            m.d.comb += [
                self.issue.valid.eq(normaliser.normalise),
                self.issue.operation.eq(NORM),
                self.issue.put.eq(1),
                self.issue.row.eq(normaliser.row),
                self.issue.column.eq(normaliser.word << arch.lanes.bit_length() - 1),
                self.issue.last.eq(normaliser.last),
            ]
            if arch.chunk_pairs:
                # Words of a pair have a place together, which the second one takes.
                begins = ~norm.store & ~normaliser.word[0] & ~normaliser.row_last
                m.d.comb += [
                    self.issue.put.eq(~begins),
                    self.issue.opens.eq(begins),
                    self.issue.joins.eq(~norm.store & normaliser.word[0]),
                ]
        with m.Else():
            m.d.comb += [
                self.issue.valid.eq(goes),
                self.issue.operation.eq(drain.kind),
                self.issue.null.eq(step.null),
                self.issue.put.eq(step.place),
                self.issue.row.eq(step.row),
                self.issue.column.eq(step.column),
                # The first result of a pair comes with the second chunk's first time.
                self.issue.column[bit].eq(Mux(kind.rotary, last_time, second)),
                self.issue.chunk.eq(step.chunk),
                self.issue.lanes.eq(step.lanes),
                self.issue.holds.eq(kind.paired & ~second),
                self.issue.paired.eq(kind.paired & second),
                self.issue.rotary.eq(kind.rotary),
                self.issue.second.eq(second),
                self.issue.again.eq(last_time),
                self.issue.row_first.eq(step.row_first),
                self.issue.row_last.eq(step.row_last),
                self.issue.last.eq(step.last & last_time),
            ]
            if arch.chunk_pairs:
                m.d.comb += self.issue.both.eq(kind.both)

        waiting = {
            "vector_wait_bank": ~step.empty & ~self.full,
            "vector_wait_parameters": ~step.empty & lacking,
            "vector_wait_scale": ~step.empty & kind.attention & ~self.scale_ready,
            "vector_wait_output": step.place & ~self.room,
        }
        reason: Value = walker.valid & ~goes
        for name in STALLS:
            m.d.comb += getattr(self, name).eq(reason & waiting[name])
            reason = reason & ~waiting[name]

        issued = goes | normaliser.sum | normaliser.normalise
        m.d.comb += [
            self.control.working.eq(issued),
            self.control.stalled.eq((walker.valid | normaliser.active) & ~issued),
            events.softmax_start.eq(walker.start & kind.softmax),
            events.rows.eq(walker.rows),
            events.columns.eq(drain.columns),
            events.drained.eq(walker.advance & ~step.null),
            events.softmax.eq(kind.softmax),
            events.active.eq(kind.active & (~kind.paired | second)),
            events.valid_columns.eq(step.valid_columns),
            events.some_lanes.eq(step.lanes[0]),
            events.all_lanes.eq(step.lanes[arch.lanes - 1]),
            events.normalised.eq(self.statistics_take),
        ]
        return m

    def _take_instructions(
        self, m: Module, kind: data.View, ended: Signal, end: Signal
    ) -> tuple[Signal, Signal, Value, Value, Value]:
        """Fill ``held``.

        Returns what is high in the cycle after, when the queue count is there; that one is taken
        in this cycle, whether it is a DRAIN, one that rotates, and one with parameters.
        """
        set_up, idle, take = Signal(), Signal(init=1), Signal()
        # The next one is here already: the dispatcher does not hang on this one's end.
        m.submodules.following = following = HalfBuffer(INSTRUCTION_BITS)
        here = following.o.valid
        arriving = view(Opcode.DRAIN, following.o.payload)
        drain = view(Opcode.DRAIN, self.held)
        # One per chunk with a place in the output stage at most, and the one that is issuing.
        unfinished = Signal(range(OutputStage.DEPTH + 4))
        m.d.comb += [
            take.eq(idle & here & self.control.granted),
            self.control.wait.eq(arriving.wait),
            self.control.want.eq(here),
            self.control.take.eq(take),
            following.i.valid.eq(self.control.queue.valid),
            following.i.payload.eq(self.control.queue.payload),
            self.control.queue.ready.eq(following.i.ready),
            following.o.ready.eq(take),
            self.control.wait_token.eq(idle & here & ~self.control.granted),
            self.control.busy.eq(here | set_up | (unfinished != 0)),
            self.control.give.eq(self.given),
            self.control.signal.eq(self.given_signal),
            self.queue_expert.eq(Mux(idle, arriving.expert, drain.expert)),
        ]
        m.d.sync += [set_up.eq(take), unfinished.eq(unfinished + set_up - self.given)]
        is_drain = arriving.opcode == Opcode.DRAIN
        active = is_any(arriving.kind, kinds_of(Function.ACTIVATION))
        paired = active & arriving.paired
        parameters = is_drain & is_any(arriving.kind, PARAMETER_KINDS)
        rotary = is_drain & is_any(arriving.kind, ROTARY_KINDS) & arriving.rotary
        # The chunks of a pair follow each other, also where a column tile is one chunk.
        rows_outside = is_any(arriving.kind, ROWS_OUTSIDE_KINDS) | paired | rotary
        with m.If(ended):
            m.d.sync += idle.eq(1)
        with m.If(take):
            m.d.sync += idle.eq(0)
            # Column of the last lane that counts: rows of exponentials end with zeros.
            exponential = is_any(arriving.kind, kinds_of(Function.EXPONENTIAL))
            whole_word = Mux(exponential, self.arch.depth - 1, 0)
            m.d.sync += end.eq((arriving.columns - 1) | whole_word)
            m.d.sync += [
                self.held.eq(following.o.payload),
                kind.norm.eq(~is_drain),
                kind.parameters.eq(parameters),
                kind.rows_outside.eq(rows_outside),
                self.amount.eq(Mux(rows_outside, arriving.n_tiles, 1)),
                kind.residual.eq(is_any(arriving.kind, kinds_of(Function.UPDATE))),
                kind.softmax.eq(exponential),
                kind.attention.eq(is_any(arriving.kind, kinds_of(Operand.SCALED_ROW))),
                kind.active.eq(active),
                kind.paired.eq(is_drain & paired),
                kind.rotary.eq(rotary),
            ]
            if self.arch.chunk_pairs:
                wide = is_any(arriving.kind, WIDE_KINDS) & arriving.wide
                m.d.sync += kind.both.eq(is_any(arriving.kind, PAIR_KINDS) & ~wide)
        return set_up, take, is_drain, rotary, parameters

    def _track_updates(
        self, m: Module, walker: Walker, kind: data.View, set_up: Value, hazard: Signal
    ) -> Signal:
        """Whether all issued residual updates are in the memory.

        The words that one RESIDUAL updates are distinct, but the next one may update the same:
        its first chunk waits (``hazard``) until reading cannot overtake writing. So does the first
        chunk that is rotated: its angles have the same read port, and come early.
        """
        updating = Signal(range(Lanes.WRITTEN + 1))
        # Compared a cycle ahead: no update is issued right before those who ask.
        first, recent, settled, updated = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            recent.eq(updated | (updating > Lanes.WRITTEN + 2 - Lanes.HAZARD)),
            settled.eq(~updated & (updating <= 1)),
            updated.eq(walker.advance & kind.residual),
        ]
        m.d.comb += hazard.eq(first & ((kind.residual & recent) | (kind.rotary & ~settled)))
        with m.If(set_up):
            m.d.sync += first.eq(1)
        with m.Elif(walker.advance):
            m.d.sync += first.eq(0)
        with m.If(updated):
            m.d.sync += updating.eq(Lanes.WRITTEN - 1)
        with m.Elif(updating != 0):
            m.d.sync += updating.eq(updating - 1)
        return settled
