"""Writes steps: the building blocks that the parts of a model share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moesaic.compiler.schedule.activations import TableSlots, table_accesses
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.operands import Normal, RowBuffer, Rows, Source, natural
from moesaic.compiler.schedule.options import Schedule
from moesaic.compiler.schedule.spill import PLACES, PLACES_READ_AHEAD, Spill, can_spill, is_spilled
from moesaic.compiler.schedule.steps import (
    QUEUES_WRITE,
    TABLES,
    Access,
    Address,
    Buffer,
    Step,
    Weights,
    reads,
    reads_stream,
)
from moesaic.spec import isa, layout, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntDense,
    IntGraph,
    IntLinear,
    IntNorm,
)

MOST_ROWS = (1 << isa.width(isa.Opcode.DRAIN, "rows")) - 1
"""Rows of one instruction."""


class StepWriter:
    """Collects the steps of one task for one architecture, as a schedule says.

    ``steps`` is the result, in program order: every step comes after all steps it depends on,
    and each unit's steps are in the order in which that unit will execute them. ``layer`` and
    ``label`` mark what is written. ``following`` is what reads the stream next: its NORM follows
    block by block as the sums of rows become complete. The stream has the rows of ``frames``,
    one behind the other: only attention tells them apart, and what begins and ends one. They are
    those of images up to where :meth:`divide` gives each task its own.
    """

    def __init__(self, joint: Joint, arch: ArchConfig, schedule: Schedule) -> None:
        self.joint, self.arch, self.schedule = joint, arch, schedule
        self.graph = graph = joint.graph
        self._have_frames(joint.frames)
        self.steps: list[Step] = []
        self.layer = 0
        self.label = "embed"
        self.following: list[Normal] = []
        self._tables = TableSlots(graph, arch)
        self.spill: Spill | None = None
        grouped = schedule.head_groups > 1 and can_spill(joint)
        if grouped or is_spilled(joint, arch):
            most = len(self.blocks(self.rows)[0])
            kept = all(self.keeps_norm(index) for index in range(len(graph.layers)))
            places = PLACES if kept else PLACES_READ_AHEAD
            self.spill = Spill.of(joint, arch, most, places, beside=grouped)
        self._kept = 0  # rows of the stream that are in scratch again

    def emit(
        self,
        opcode: isa.Opcode,
        accesses: tuple[Access, ...] = (),
        weights: Weights | None = None,
        /,
        **fields: int | Address,
    ) -> None:
        """Append a step under the current layer."""
        self.steps.append(Step(opcode, fields, accesses, weights, self.layer, self.label))

    def words(self, columns: int) -> int:
        """Activation words of a row of ``columns`` bytes."""
        return layout.words(columns, self.arch.depth)

    def buffer(self, name: str, rows: int, columns: int, side: int = 0, planes: int = 1) -> Buffer:
        """A piece of the activation scratchpad for ``rows`` rows of ``columns`` bytes, or for
        several planes of them."""
        return Buffer(f"{self.label}.{name}", planes * rows * self.words(columns), side)

    def divide(self) -> None:
        """From here on every task has rows of its own: the first task's of all images first."""
        self._have_frames(self.joint.streams)

    def _have_frames(self, count: int) -> None:
        tokens = self.graph.tokens
        self.frames = [range(first, first + tokens) for first in range(0, count * tokens, tokens)]
        self.rows = range(count * tokens)

    @property
    def parts(self) -> list[tuple[IntGraph, range]]:
        """The task that each part of the outputs is of, and its rows of the stream."""
        frames = self.frames * (self.joint.frames * len(self.joint.graphs) // len(self.frames))
        graphs = [graph for graph in self.joint.graphs for _ in range(self.joint.frames)]
        return list(zip(graphs, frames, strict=True))

    @property
    def residual_words(self) -> int:
        """Residual words of a row."""
        return layout.words(self.graph.channels, self.arch.lanes)

    def blocks(self, rows: range) -> list[range]:
        """Blocks of some rows of the stream, as the schedule says, or more: an accumulator bank
        holds one, and one instruction has its rows."""
        if self.spill:
            return self.spill.blocks(rows)
        wanted = layout.words(len(rows), self.schedule.row_blocks)
        size = min(wanted, self.arch.accumulator_rows, MOST_ROWS)
        return [
            range(first, min(first + size, rows.stop))
            for first in range(rows.start, rows.stop, size)
        ]

    def keeps_norm(self, index: int) -> bool:
        """Whether all rows that layer ``index`` reads are normalised before it begins: as the
        schedule says, or because it can't take them by the block, or somebody reads them once it
        has added to the stream."""
        layer, behind = self.graph.layers[index], self.graph.layers[index + 1 : index + 2]
        by_block = isinstance(layer, IntAttention) or (
            isinstance(layer, IntDense) and layer.tokens is None
        )
        shared = layer.parallel or any(other.parallel for other in behind)
        return bool(self.schedule.norms_kept) or shared or not by_block

    def head_groups(self, heads: int) -> list[range]:
        """Heads of attention whose keys and values are there at a time, as the schedule says."""
        if not (self.spill and self.spill.beside):
            return [range(heads)]
        size = layout.words(heads, self.schedule.head_groups)
        return [range(first, min(first + size, heads)) for first in range(0, heads, size)]

    def begin_norm(
        self,
        norm: IntNorm,
        rows: range,
        wide: bool,
        layer: int,
        label: str,
        kept: bool = True,
        parts: int = 1,
    ) -> Normal:
        """What normalises ``rows`` of the stream: int8 and, with ``wide``, two more planes. With
        ``kept`` :meth:`complete` writes all of them, a block of products or, where there is one,
        one of ``parts`` behind the other; else :meth:`normalise` does, block by block.
        """
        blocks = self.blocks(rows)
        if kept and len(blocks) == 1 and not self.spill:
            size = layout.words(len(rows), parts)
            firsts = range(rows.start, rows.stop, size)
            blocks = [range(first, min(first + size, rows.stop)) for first in firsts]
        place = self._norm_place(norm, rows, wide, label) if kept else None
        return Normal(norm, rows, wide, layer, label, place, blocks)

    def complete(self, until: int) -> None:
        """The stream's rows below ``until`` have all that is added to them: emit the NORM of those
        blocks of ``following`` that are complete with them, where they are kept."""
        for normal in self.following:
            if not normal.place:
                continue
            for rows in normal.blocks:
                if normal.until <= rows.start and rows.stop <= until:
                    self._norm(normal, normal.place, rows)
                    normal.until = rows.stop
        if self.spill and self.layer < len(self.graph.layers):
            for rows in self.spill.blocks(self.rows):
                if self._kept <= rows.start and rows.stop <= until:
                    self._append(*self.spill.keep(rows))
                    self._kept = rows.stop

    def normalise(self, normal: Normal, rows: range) -> Normal:
        """Of a norm whose rows are not kept, those of a resident block in a place of their own; the
        others as they are."""
        if normal.place:
            return normal
        place = self._norm_place(normal.norm, rows, normal.wide, normal.label)
        self._norm(normal, place, rows)
        return replace(normal, rows=rows, place=place)

    def fetch(self, rows: range, update: bool = True) -> None:
        """Bring a block of the stream back, if it is in scratch: with ``update`` to be added to."""
        if self.spill:
            self._append(self.spill.fetch(rows))
            if update:
                self._kept = min(self._kept, rows.start)

    def resident(self, rows: range) -> range:
        """Rows of the residual memory where ``rows`` of one block of the stream are."""
        return self.spill.place(rows) if self.spill else rows

    def _append(self, *steps: Step) -> None:
        """Append steps under the current layer."""
        self.steps += [replace(step, layer=self.layer, label=self.label) for step in steps]

    def _norm_place(self, norm: IntNorm, rows: range, wide: bool, label: str) -> RowBuffer:
        """Room for normalised rows."""
        words = self.words(norm.channels)
        name, plane = f"{label}.norm{rows.start or ''}", len(rows) * words
        if wide and self.schedule.planes_freed:
            planes = Buffer(f"{name}.wide", 2 * plane)
            return RowBuffer(Buffer(name, plane, behind=planes), rows, words, planes)
        return RowBuffer(Buffer(name, plane * (3 if wide else 1)), rows, words)

    def _norm(self, normal: Normal, place: RowBuffer, rows: range) -> None:
        """Emit NORM of some rows of the stream."""
        norm, source = normal.norm, self.resident(rows)
        self.steps.append(
            Step(
                isa.Opcode.NORM,
                dict(
                    wide=int(normal.wide),
                    rows=len(rows),
                    words=self.residual_words,
                    channels=norm.channels,
                    source_base=source.start * self.residual_words,
                    source_stride=self.residual_words,
                    epsilon=norm.epsilon,
                    multiplier=norm.scale.multiplier,
                    shift=norm.scale.shift,
                    base=place.at(rows.start),
                    stride=place.stride,
                    plane_stride=place.plane if normal.wide else 0,
                    plain=int(norm.plain),
                ),
                (reads_stream(source), *place.writes(rows)),
                layer=normal.layer,
                label=normal.label,
            )
        )

    def activation(self, activation: IntActivation) -> tuple[dict[str, int], tuple[Access, ...]]:
        """DRAIN's fields for an activation, and its accesses; LOADs what is not resident."""
        fields, loads = self._tables.need(activation)
        for offset, slot in loads:
            self.emit(
                isa.Opcode.LOAD,
                (Access(TABLES[slot], True),),
                window=isa.Window.CONSTANT,
                space=isa.Space.TABLE,
                offset=offset,
                words=tables.ACTIVATION_ENTRIES,
                base=slot * tables.ACTIVATION_ENTRIES,
            )
        return fields, table_accesses(fields)

    def linear(
        self,
        source: Source,
        weights: Weights,
        rows: Rows,
        drain: dict[str, int | Address],
        targets: tuple[Access, ...],
        *,
        columns: int,
        gather: bool = False,
        one_group: bool = False,
    ) -> None:
        """Emit the MATMUL of ``source`` with ring weights and the DRAIN of its accumulators."""
        arch = self.arch
        k_tiles = len(weights.rows) // arch.depth
        wide = k_tiles if source.wide is None else source.wide
        tiles = len(weights.columns) // arch.width
        stride = k_tiles if source.stride is None else source.stride
        together = tiles if one_group else self._bank_tiles(tiles, rows)
        n_tiles, groups = together, tiles // together
        first = rows.first - source.row
        listed = gather or rows.expert is not None
        read = None if listed else range(first, first + rows.count)
        self.emit(
            isa.Opcode.MATMUL,
            (*reads(source.buffer, rows=read), *rows.accesses),
            weights,
            **rows.fields,
            gather=int(gather),
            stationary=weights.source,
            streamed=source.streamed,
            parameters=1,
            k_tiles=k_tiles,
            n_tiles=n_tiles,
            groups=groups,
            ring_words=weights.ring_words(arch),
            stream_base=Address(source.buffer, source.first + first * stride),
            stream_stride=stride,
            plane_stride=source.plane,
            last_wide=wide - 1 if source.streamed == isa.Streamed.SIGNED16 else 0,
        )
        self.emit(
            isa.Opcode.DRAIN,
            (*targets, *rows.accesses),
            **rows.fields,
            n_tiles=n_tiles,
            groups=groups,
            columns=columns,
            **drain,
        )

    def route(
        self,
        source: Source,
        gates: Sequence[tuple[IntLinear, range]],
        queue_rows: tuple[int, ...] = (),
        /,
        **fields: int,
    ) -> None:
        """Emit the products whose results are the scores of all tokens, by a gate for some rows
        each, and the ROUTE that makes queues of them."""
        for gate, rows in gates:
            self.linear(
                source,
                self.weights(gate),
                Rows.block(rows),
                {"kind": isa.Drain.LOGITS},
                (),
                columns=gate.outputs,
                one_group=gate.outputs > self.arch.width,
            )
        self.emit(
            isa.Opcode.ROUTE,
            (QUEUES_WRITE,),
            rows=len(self.rows),
            first_row=0,
            experts=gates[0][0].outputs,
            **fields,
        )
        self.steps[-1].queue_rows = queue_rows

    def _bank_tiles(self, tiles: int, rows: Rows) -> int:
        """Column tiles for one bank: they must share it evenly, and fit whoever's rows come."""
        most = max(1, min(self.schedule.bank_tiles, self.bank_limit(rows)))
        return next(count for count in range(most, 0, -1) if tiles % count == 0)

    def bank_limit(self, rows: Rows) -> int:
        """Most column tiles of ``rows``, or of all tokens, that an accumulator bank holds."""
        most = rows.count or len(self.rows)
        return min(self.arch.accumulator_rows // most, self.arch.parameter_blocks)

    def weights(self, linear: IntLinear) -> Weights:
        """Ring weights of a linear layer in its natural order."""
        return Weights(
            linear,
            natural(linear.inputs, self.arch.depth),
            natural(linear.outputs, self.arch.width),
        )

    def to_residual(self, first_row: int = 0) -> dict[str, int | Address]:
        """DRAIN fields that add to the residual memory from ``first_row`` on."""
        return {
            "kind": isa.Drain.RESIDUAL,
            "base": first_row * self.residual_words,
            "stride": self.residual_words,
        }
