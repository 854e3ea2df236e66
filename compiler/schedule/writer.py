"""Writes steps: the building blocks that the parts of a model share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesaic.compiler.schedule.activations import TableSlots, table_accesses
from moesaic.compiler.schedule.options import Schedule
from moesaic.compiler.schedule.spill import Spill, is_spilled
from moesaic.compiler.schedule.steps import (
    QUEUES_READ,
    QUEUES_WRITE,
    TABLES,
    Access,
    Address,
    Buffer,
    Step,
    Weights,
    reads,
    reads_stream,
    writes,
)
from moesaic.spec import isa, layout, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntActivation, IntGraph, IntLinear, IntNorm

MOST_ROWS = (1 << isa.width(isa.Opcode.DRAIN, "rows")) - 1
"""Rows of one instruction."""


@dataclass(frozen=True)
class Rows:
    """Rows that a product works on: ``count`` from ``first`` on, or an expert's queue, which has
    ``count`` rows if that is not 0."""

    count: int
    expert: int | None = None
    first: int = 0

    @staticmethod
    def block(rows: range) -> Rows:
        """Rows from ``rows.start`` to below ``rows.stop``."""
        return Rows(len(rows), first=rows.start)

    @property
    def range(self) -> range | None:
        """The rows; None if only the frame's routing says which they are."""
        return range(self.first, self.first + self.count) if self.expert is None else None

    @property
    def fields(self) -> dict[str, int]:
        if self.expert is None:
            return {"rows": self.count}
        return {"predicated": 1, "expert": self.expert}

    @property
    def accesses(self) -> tuple[Access, ...]:
        return () if self.expert is None else (QUEUES_READ,)


def natural(count: int, size: int) -> tuple[int, ...]:
    """Indices 0 .. count - 1, padded with -1 to a multiple of ``size``."""
    return (*range(count), *([-1] * (-count % size)))


def per_head(heads: int, dim: int, size: int) -> tuple[int, ...]:
    """Indices of ``heads`` groups of ``dim``, each padded with -1 to a multiple of ``size``."""
    pad = -dim % size
    return tuple(
        head * dim + i if i < dim else -1 for head in range(heads) for i in range(dim + pad)
    )


def pad_to(indices: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Pad with -1 to a multiple of ``size``."""
    return (*indices, *([-1] * (-len(indices) % size)))


@dataclass(frozen=True)
class Source:
    """Rows of a buffer as a MATMUL streams them.

    ``first`` is the word of the first row, in the high plane if there are two; ``plane`` the words
    from there to the low one. ``stride`` words lie between rows if not just those of a plane, and
    ``wide`` k-tiles have both planes if not all.
    """

    buffer: Buffer
    streamed: isa.Streamed = isa.Streamed.SIGNED8
    first: int = 0
    plane: int = 0
    stride: int | None = None
    wide: int | None = None

    @staticmethod
    def normalised(buffer: Buffer, wide: bool) -> Source:
        """The int8 rows, or with ``wide`` the 16-bit rows, that NORM has written; three planes
        if there are any 16-bit rows."""
        if not wide:
            return Source(buffer)
        plane = buffer.words // 3
        return Source(buffer, isa.Streamed.SIGNED16, plane, plane)


@dataclass
class Normal:
    """Normalised rows of the stream in the making: ``rows`` of it, of which those below ``until``
    are written. ``buffer`` has the first of them in row 0, in three planes if ``wide``."""

    norm: IntNorm
    buffer: Buffer
    rows: range
    wide: bool
    layer: int
    label: str
    until: int

    def source(self, wide: bool) -> Source:
        """The int8 rows, or with ``wide`` the 16-bit rows."""
        return Source.normalised(self.buffer, wide)


class StepWriter:
    """Collects the steps of one task for one architecture, as a schedule says.

    ``steps`` is the result, in program order: every step comes after all steps it depends on,
    and each unit's steps are in the order in which that unit will execute them. ``layer`` and
    ``label`` mark what is written. ``following`` is what reads the stream next: its NORM follows
    block by block as the sums of rows become complete.
    """

    def __init__(self, graph: IntGraph, arch: ArchConfig, schedule: Schedule) -> None:
        self.graph, self.arch, self.schedule = graph, arch, schedule
        self.steps: list[Step] = []
        self.layer = 0
        self.label = "embed"
        self.following: Normal | None = None
        self._tables = TableSlots(graph, arch)
        self.spill: Spill | None = None
        if is_spilled(graph, arch):
            self.spill = Spill.of(graph, arch, len(self.blocks(graph.tokens)[0]))
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

    @property
    def residual_words(self) -> int:
        """Residual words of a row."""
        return layout.words(self.graph.channels, self.arch.lanes)

    def blocks(self, rows: int) -> list[range]:
        """Row blocks of ``rows`` rows, as the schedule says, or more: an accumulator bank holds
        one, and one instruction has its rows."""
        if self.spill:
            return self.spill.blocks(range(rows))
        wanted = layout.words(rows, self.schedule.row_blocks)
        size = min(wanted, self.arch.accumulator_rows, MOST_ROWS)
        return [range(first, min(first + size, rows)) for first in range(0, rows, size)]

    def begin_norm(self, norm: IntNorm, rows: range, wide: bool, layer: int, label: str) -> Normal:
        """Give ``rows`` of the stream a place as int8 rows and, with ``wide``, two more planes;
        :meth:`complete` writes them."""
        words = self.words(norm.channels)
        buffer = Buffer(f"{label}.norm", len(rows) * words * (3 if wide else 1))
        return Normal(norm, buffer, rows, wide, layer, label, rows.start)

    def complete(self, until: int) -> None:
        """The stream's rows below ``until`` have all that is added to them: emit the NORM of those
        blocks of ``following`` that are complete with them."""
        normal = self.following
        for rows in self.parts(normal.rows) if normal else ():
            if normal and normal.until <= rows.start and rows.stop <= until:
                self._norm(normal, rows)
                normal.until = rows.stop
        if self.spill and self.layer < len(self.graph.layers):
            for rows in self.spill.blocks(range(self.graph.tokens)):
                if self._kept <= rows.start and rows.stop <= until:
                    self._append(*self.spill.keep(rows))
                    self._kept = rows.stop

    def fetch(self, rows: range) -> None:
        """Bring a block of the stream back, if it is in scratch: it will be added to."""
        if self.spill:
            self._append(self.spill.fetch(rows))
            self._kept = min(self._kept, rows.start)

    def resident(self, rows: range) -> range:
        """Rows of the residual memory where ``rows`` of one block of the stream are."""
        return self.spill.place(rows) if self.spill else rows

    def parts(self, rows: range) -> list[range]:
        """Blocks of some rows of the stream."""
        if self.spill:
            return self.spill.blocks(rows)
        blocks = self.blocks(len(rows))
        return [range(rows.start + b.start, rows.start + b.stop) for b in blocks]

    def _append(self, *steps: Step) -> None:
        """Append steps under the current layer."""
        self.steps += [replace(step, layer=self.layer, label=self.label) for step in steps]

    def _norm(self, normal: Normal, rows: range) -> None:
        """Emit NORM of some rows of the stream."""
        norm, buffer = normal.norm, normal.buffer
        words, first = self.words(norm.channels), rows.start - normal.rows.start
        place = self.resident(rows)
        self.steps.append(
            Step(
                isa.Opcode.NORM,
                dict(
                    wide=int(normal.wide),
                    rows=len(rows),
                    words=self.residual_words,
                    channels=norm.channels,
                    source_base=place.start * self.residual_words,
                    source_stride=self.residual_words,
                    epsilon=norm.epsilon,
                    multiplier=norm.scale.multiplier,
                    shift=norm.scale.shift,
                    base=Address(buffer, first * words),
                    stride=words,
                    plane_stride=len(normal.rows) * words if normal.wide else 0,
                    plain=int(norm.plain),
                ),
                (
                    reads_stream(place),
                    *writes(buffer, rows=range(first, first + len(rows))),
                ),
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
        self.emit(
            isa.Opcode.MATMUL,
            (*reads(source.buffer, rows=rows.range if not gather else None), *rows.accesses),
            weights,
            **rows.fields,
            gather=int(gather),
            stationary=isa.Stationary.RING,
            streamed=source.streamed,
            parameters=1,
            k_tiles=k_tiles,
            n_tiles=n_tiles,
            groups=groups,
            ring_words=tiles * (arch.parameter_ring_words + k_tiles * arch.tile_ring_words),
            stream_base=Address(source.buffer, source.first + rows.first * stride),
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
        gate: IntLinear,
        queue_rows: tuple[int, ...] = (),
        /,
        **fields: int,
    ) -> None:
        """Emit the product whose results are the scores of all tokens, and the ROUTE that makes
        queues of them."""
        tokens = self.graph.tokens
        self.linear(
            source,
            self.weights(gate),
            Rows(tokens),
            {"kind": isa.Drain.LOGITS},
            (),
            columns=gate.outputs,
            one_group=gate.outputs > self.arch.width,
        )
        self.emit(
            isa.Opcode.ROUTE,
            (QUEUES_WRITE,),
            rows=tokens,
            first_row=0,
            experts=gate.outputs,
            **fields,
        )
        self.steps[-1].queue_rows = queue_rows

    def _bank_tiles(self, tiles: int, rows: Rows) -> int:
        """Column tiles for one bank: they must share it evenly, and fit whoever's rows come."""
        most = max(1, min(self.schedule.bank_tiles, self.bank_limit(rows)))
        return next(count for count in range(most, 0, -1) if tiles % count == 0)

    def bank_limit(self, rows: Rows) -> int:
        """Most column tiles of ``rows``, or of all tokens, that an accumulator bank holds."""
        most = rows.count or self.graph.tokens
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
