"""The vector unit: drains accumulators and normalises the residual stream."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.interfaces import (
    AccumulatorRead,
    ActivationWrite,
    InstructionPort,
    QueueRead,
    ResidualWrite,
    TableWrite,
    logit_layout,
)
from moesaic.hw.memory.ram import Ram
from moesaic.hw.vector.addressing import Addressing
from moesaic.hw.vector.angles import Angles
from moesaic.hw.vector.events import STALLS, VectorEvents
from moesaic.hw.vector.lanes import Lanes
from moesaic.hw.vector.operands import Operands
from moesaic.hw.vector.operation import (
    DESTINATION,
    NORM,
    WIDE_KINDS,
    is_any,
    kinds_of,
    output_layout,
)
from moesaic.hw.vector.output import OutputStage
from moesaic.hw.vector.parameters import ParameterBuffer
from moesaic.hw.vector.row_scale import RowScale
from moesaic.hw.vector.sequencer import Sequencer, view
from moesaic.hw.vector.statistics import Statistics
from moesaic.hw.vector.upper_lanes import UpperLanes
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import Destination, Function
from moesaic.spec.formats import RESIDUAL_BITS
from moesaic.spec.isa import Opcode


class VectorUnit(wiring.Component):
    """Executes DRAIN and NORM, one chunk of ``lanes`` values per cycle.

    The first chunk of an instruction follows the last one of the instruction before after two
    idle cycles, without waiting for the pipeline. A result is offered to its destination
    ``LATENCY`` cycles after its chunk was issued; a destination that is not ready stops the issue
    of chunks once ``OutputStage.DEPTH`` of them are under way. Tokens are given in program order,
    one cycle after an instruction's last result was taken.

    Three hazards make an instruction wait for an older one that is still in the pipeline:
    RESIDUAL after RESIDUAL waits until reads cannot overtake writes (``Lanes.HAZARD`` cycles),
    NORM until every residual value is written, ATTENTION until its SOFTMAX has its sums.

    NORM takes a cycle per residual word (three with planes), plus about
    ``Statistics.LATENCY_LIMIT`` per instruction; its rows go to the activations or, as int16, to
    ``output``. INT8 and ACTIVATION with planes take two cycles
    per chunk.

    Attributes
    ----------
    control
        Instructions and tokens.
    accumulators
        The bank to drain.
    parameters
        Parameter blocks as ring words, in the order of use.
    activation_write, logits, output
        Results.
    residual_write
        From the load unit; accepted in cycles without a residual update.
    table_write
        From the load unit: entries of activation tables.
    queue
        Expert queues.
    events, vector_wait_...
        Increments of performance counters.
    """

    LATENCY = Lanes.RESULT + 2

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "control": In(InstructionPort()),
                "accumulators": Out(AccumulatorRead(arch)),
                "parameters": In(stream.Signature(8 * arch.ring_read_bytes)),
                "activation_write": Out(ActivationWrite(arch)),
                "residual_write": In(ResidualWrite(arch)),
                "table_write": In(TableWrite()),
                "queue": Out(QueueRead(arch)),
                "logits": Out(stream.Signature(logit_layout(arch))),
                "output": Out(stream.Signature(RESIDUAL_BITS * arch.lanes)),
                "events": Out(VectorEvents(arch)),
                **{name: Out(1) for name in STALLS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        if Lanes.ANGLE > Statistics.LATENCY_LEAST:
            raise AssertionError("a rotation reads while NORM may")
        m.submodules.sequencer = sequencer = Sequencer(arch)
        m.submodules.parameter_buffer = parameters = ParameterBuffer(arch)
        m.submodules.statistics = statistics = Statistics(arch)
        m.submodules.addressing = addressing = Addressing(arch)
        m.submodules.angles = angles = Angles(arch)
        m.submodules.operands = operands = Operands(arch)
        m.submodules.lanes = lanes = Lanes(arch)
        pairs = UpperLanes(arch) if arch.chunk_pairs else None
        m.submodules.row_scale = row_scale = RowScale(arch)
        m.submodules.output_stage = output = OutputStage(arch)
        m.submodules.residual_memory = residual = Ram(
            RESIDUAL_BITS * arch.lanes, arch.residual_words
        )
        m.submodules.residual_copy = copy = Ram(RESIDUAL_BITS * arch.lanes, arch.residual_words)
        connect(m, flipped(self.control), sequencer.control)
        connect(m, flipped(self.events), sequencer.events)
        connect(m, flipped(self.parameters), parameters.words)
        connect(m, flipped(self.activation_write), output.activation_write)
        connect(m, flipped(self.table_write), lanes.table_write)
        connect(m, flipped(self.logits), output.logits)
        connect(m, flipped(self.output), output.output)

        issue = sequencer.issue
        drain, norm = view(Opcode.DRAIN, sequencer.held), view(Opcode.NORM, sequencer.held)
        is_norm, drains_planes, stores = Signal(), Signal(), Signal()
        may_be_wide = is_any(issue.operation, WIDE_KINDS)
        m.d.comb += is_norm.eq(issue.operation == NORM)
        m.d.comb += stores.eq(is_norm & norm.store)
        m.d.comb += drains_planes.eq(may_be_wide & drain.wide)

        # What the sequencer waits for, and what it consumes.
        m.d.comb += [
            sequencer.full.eq(self.accumulators.full),
            self.accumulators.release.eq(sequencer.release),
            self.accumulators.address.eq(sequencer.address),
            self.accumulators.maximum_address.eq(issue.row),
            self.queue.expert.eq(sequencer.queue_expert),
            self.queue.index.eq(issue.row),
            sequencer.queue_count.eq(self.queue.count),
            sequencer.available.eq(parameters.available),
            sequencer.some.eq(parameters.some),
            parameters.block.eq(sequencer.block),
            parameters.chunk.eq(issue.chunk),
            parameters.consume.eq(sequencer.consume),
            parameters.amount.eq(sequencer.amount),
            sequencer.room.eq(output.room),
            output.reserve.eq(issue.valid & issue.put),
            sequencer.scale_ready.eq(row_scale.ready),
            row_scale.release.eq(sequencer.scale_release),
            sequencer.statistics_ready.eq(statistics.rows.valid),
            statistics.rows.ready.eq(sequencer.statistics_take),
            *(getattr(self, name).eq(getattr(sequencer, name)) for name in STALLS),
            sequencer.given.eq(output.give),
            sequencer.given_signal.eq(output.signal),
        ]

        # Residual memory: NORM's second pass, RESIDUAL and rotations never read at the same time; a
        # rotation's last read is over before NORM has the statistics of a row. The sums of NORM's
        # first pass come from a copy, so that they cost no cycle of the second one.
        m.d.comb += [
            residual.read_enable.eq(1),
            residual.read_address.eq(
                Mux(lanes.read, lanes.read_address, sequencer.residual_address)
            ),
            lanes.read_data.eq(residual.read_data),
            residual.write_enable.eq(lanes.write | self.residual_write.valid),
            self.residual_write.ready.eq(~lanes.write),
            residual.write_address.eq(
                Mux(lanes.write, lanes.write_address, self.residual_write.address)
            ),
            residual.write_data.eq(
                Mux(lanes.write, lanes.write_data.as_value(), self.residual_write.data)
            ),
            statistics.valid.eq(delay(m, sequencer.sum, 1, "sum", control=True)),
            copy.read_enable.eq(1),
            copy.read_address.eq(sequencer.sum_address),
            copy.write_enable.eq(residual.write_enable),
            copy.write_address.eq(residual.write_address),
            copy.write_data.eq(residual.write_data),
            statistics.words.eq(copy.read_data),
            statistics.row_first.eq(delay(m, sequencer.sum_first, 1, "sum_first")),
            statistics.row_last.eq(delay(m, sequencer.sum_last, 1, "sum_last")),
            statistics.channels.eq(norm.channels),
            statistics.epsilon.eq(norm.epsilon),
            statistics.multiplier.eq(norm.multiplier),
            statistics.shift.eq(norm.shift),
            statistics.plain.eq(norm.plain),
        ]

        m.d.comb += [
            operands.issue.eq(issue),
            operands.multiplier.eq(drain.multiplier),
            operands.shift.eq(drain.shift),
            operands.wide.eq(drain.wide),
            operands.channels.eq(norm.channels),
            operands.statistics.eq(statistics.rows.payload),
            operands.residual.eq(residual.read_data),
            operands.parameters.eq(parameters.entries),
            operands.accumulators.eq(self.accumulators.data),
            operands.maximum.eq(self.accumulators.maximum),
            operands.scale.eq(row_scale.scale),
            operands.scale_shift.eq(row_scale.shift),
            lanes.issue.eq(issue),
            lanes.multiplier.eq(drain.multiplier),
            lanes.shift.eq(drain.shift),
            lanes.offset.eq(drain.offset),
            lanes.wide.eq(Mux(is_norm, ~norm.store, drain.wide)),
            lanes.choice.table.eq(drain.table),
            lanes.choice.negative_table.eq(drain.negative_table),
            lanes.choice.linear.eq(drain.linear),
            lanes.weight.eq(addressing.weight),
            lanes.residual_address.eq(addressing.residual),
            angles.start.eq(sequencer.started),
            angles.base.eq(drain.angles),
            angles.words.eq(drain.angle_words),
            angles.issue.eq(issue),
            lanes.angle_address.eq(angles.address),
            lanes.operand.eq(operands.operand),
            lanes.lane_multiplier.eq(operands.lane_multiplier),
            lanes.lane_shift.eq(operands.lane_shift),
            lanes.limit.eq(operands.limit),
            output.chunk.eq(lanes.chunk),
            output.chunk_put.eq(lanes.chunk_put),
        ]

        exponential = is_any(issue.operation, kinds_of(Function.EXPONENTIAL))
        summed = issue.valid & ~issue.null & exponential
        cycles = Lanes.PROBABILITY
        m.d.comb += [
            row_scale.read_row.eq(issue.row),
            row_scale.multiplier.eq(delay(m, drain.multiplier, 2, "attention_multiplier")),
            row_scale.instruction_shift.eq(delay(m, drain.shift, 2, "attention_shift")),
            row_scale.valid.eq(delay(m, summed, cycles, "summed", control=True)),
            row_scale.probability.eq(Cat(lanes.probability, pairs.probability if pairs else ())),
            row_scale.row.eq(delay(m, issue.row, cycles, "summed_row")),
            row_scale.row_first.eq(delay(m, issue.row_first, cycles, "summed_first")),
            row_scale.row_last.eq(delay(m, issue.row_last, cycles, "summed_last")),
            row_scale.block_last.eq(delay(m, issue.last, cycles, "summed_block_last")),
        ]

        if pairs:
            m.submodules.upper_lanes = pairs
            m.d.comb += [
                pairs.issue.eq(issue),
                pairs.multiplier.eq(drain.multiplier),
                pairs.shift.eq(drain.shift),
                pairs.accumulators.eq(self.accumulators.data),
                pairs.maximum.eq(self.accumulators.maximum),
                pairs.scale.eq(row_scale.scale),
                pairs.scale_shift.eq(row_scale.shift),
            ]
            self._join(m, issue, lanes, pairs, output)

        # The way out is known as soon as the address is.
        destinations = Array(DESTINATION[operation] for operation in range(NORM + 1))
        cycles = Addressing.LATENCY
        route = Signal(output_layout(arch))
        m.d.comb += [
            addressing.row.eq(issue.row),
            addressing.column.eq(issue.column),
            addressing.scatter.eq(~is_norm & drain.scatter),
            addressing.halved.eq(issue.paired),
            addressing.base.eq(Mux(is_norm, norm.base, drain.base)),
            addressing.stride.eq(Mux(is_norm, norm.stride, drain.stride)),
            addressing.token.eq(self.queue.token),
            addressing.queue_weight.eq(self.queue.weight),
            route.destination.eq(
                Mux(
                    issue.null,
                    Destination.NONE,
                    Mux(stores, Destination.OUTPUT, destinations[issue.operation]),
                )
            ),
            route.wide.eq(Mux(is_norm, norm.wide & ~norm.store, drains_planes)),
            route.planes_only.eq(drains_planes),
            route.plane.eq(Mux(is_norm, norm.plane_stride, drain.plane_stride)),
            route.row_last.eq(issue.row_last),
            route.last.eq(issue.last),
            route.signal.eq(drain.signal),
            *([route.pair.eq(self._is_pair(issue, exponential))] if pairs else []),
            output.route.eq(delay(m, route, cycles, "route")),
            output.route.address.eq(addressing.activation),
            output.route.select.eq(addressing.select),
            output.route_put.eq(
                delay(m, issue.valid & issue.put, cycles, "route_put", control=True)
            ),
        ]
        return m

    def _is_pair(self, issue: data.View, exponential: Value) -> Value:
        """Whether both chunks of a pair are written: also where the second one is padding, if that
        has to be zero."""
        return issue.joins | (issue.both & (exponential | issue.lanes[self.arch.lanes]))

    @staticmethod
    def _join(
        m: Module, issue: data.View, lanes: Lanes, pairs: UpperLanes, output: OutputStage
    ) -> None:
        """Put both chunks of a pair in the same place of the output stage, whether they come at a
        time or one after the other."""
        valid = delay(m, issue.valid, 1, "pair_valid", control=True)
        both = delay(m, issue.both, Lanes.RESULT, "both")

        def comes(name: str, what: Value) -> Value:
            held = delay(m, what, 1, name)
            return delay(m, valid & held, Lanes.RESULT - 1, f"{name}_now", control=True)

        m.d.comb += [
            output.upper.eq(Mux(both, pairs.chunk.as_value(), lanes.chunk.as_value())),
            output.lower_write.eq(comes("lower", (issue.put | issue.opens) & ~issue.joins)),
            output.upper_write.eq(comes("upper", issue.joins | (issue.both & issue.put))),
        ]
