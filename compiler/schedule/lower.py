"""Lowering: an integer graph becomes steps in program order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moesaic.compiler.schedule.steps import (
    QUEUES_READ,
    QUEUES_WRITE,
    RESIDUAL_READ,
    RESIDUAL_WRITE,
    Access,
    Address,
    Buffer,
    Step,
    Weights,
    reads,
    writes,
)
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
)


@dataclass(frozen=True)
class Rows:
    """Rows that a product works on: a fixed number, or an expert's queue."""

    count: int
    expert: int | None = None

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


class Lowering:
    """Writes the steps of one task for one architecture.

    ``steps`` is the result, in program order: every step comes after all steps it depends on,
    and each unit's steps are in the order in which that unit will execute them.
    """

    def __init__(self, graph: IntGraph, arch: ArchConfig) -> None:
        self.graph, self.arch = graph, arch
        self.steps: list[Step] = []
        self.layer = 0
        self.label = "embed"
        self._check_capacity()

    def run(self) -> list[Step]:
        """Lower the whole task."""
        self._embed()
        for index, layer in enumerate(self.graph.layers):
            self.layer, self.label = index + 1, layer.name
            if isinstance(layer, IntAttention):
                self._attention(layer)
            elif isinstance(layer, IntDense):
                narrow = self._norm(layer.norm, self.graph.tokens)
                hidden = self._hidden(layer.mlp)
                self._up(narrow, hidden, layer.mlp, Rows(self.graph.tokens))
                self._down(hidden, layer.mlp, Rows(self.graph.tokens))
            else:
                self._moe(layer, index)
        self.layer, self.label = len(self.graph.layers) + 1, "head"
        self._head()
        return self.steps

    # Building blocks.

    def _emit(
        self,
        opcode: isa.Opcode,
        accesses: tuple[Access, ...] = (),
        weights: Weights | None = None,
        /,
        **fields: int | Address,
    ) -> None:
        self.steps.append(Step(opcode, fields, accesses, weights, self.layer, self.label))

    def _words(self, columns: int) -> int:
        """Activation words of a row of ``columns`` bytes."""
        return layout.words(columns, self.arch.depth)

    def _buffer(self, name: str, rows: int, columns: int, side: int = 0) -> Buffer:
        return Buffer(f"{self.label}.{name}", rows * self._words(columns), side)

    @property
    def _residual_words(self) -> int:
        return layout.words(self.graph.channels, self.arch.lanes)

    def _norm(self, norm: IntNorm, rows: int, first_row: int = 0, wide: bool = False) -> Buffer:
        """Emit NORM; the result holds the int8 rows and, with ``wide``, two more planes."""
        words = self._words(norm.channels)
        buffer = Buffer(f"{self.label}.norm", rows * words * (3 if wide else 1))
        self._emit(
            isa.Opcode.NORM,
            (RESIDUAL_READ, *writes(buffer)),
            wide=int(wide),
            rows=rows,
            words=self._residual_words,
            channels=norm.channels,
            source_base=first_row * self._residual_words,
            source_stride=self._residual_words,
            epsilon=norm.epsilon,
            multiplier=norm.scale.multiplier,
            shift=norm.scale.shift,
            base=Address(buffer),
            stride=words,
            plane_stride=rows * words if wide else 0,
        )
        return buffer

    def _linear(
        self,
        source: Buffer,
        weights: Weights,
        rows: Rows,
        drain: dict[str, int | Address],
        targets: tuple[Access, ...],
        *,
        columns: int,
        streamed: isa.Streamed = isa.Streamed.SIGNED8,
        plane: int = 0,
        gather: bool = False,
        one_group: bool = False,
    ) -> None:
        """Emit the MATMUL of ``source`` with ring weights and the DRAIN of its accumulators."""
        arch = self.arch
        k_tiles = len(weights.rows) // arch.depth
        tiles = len(weights.columns) // arch.width
        n_tiles, groups = (tiles, 1) if one_group else (1, tiles)
        self._emit(
            isa.Opcode.MATMUL,
            (*reads(source), *rows.accesses),
            weights,
            **rows.fields,
            gather=int(gather),
            stationary=isa.Stationary.RING,
            streamed=streamed,
            parameters=1,
            k_tiles=k_tiles,
            n_tiles=n_tiles,
            groups=groups,
            ring_words=tiles * (arch.parameter_ring_words + k_tiles * arch.tile_ring_words),
            stream_base=Address(source, plane),
            stream_stride=k_tiles,
            plane_stride=plane,
        )
        self._emit(
            isa.Opcode.DRAIN,
            (*targets, *rows.accesses),
            **rows.fields,
            n_tiles=n_tiles,
            groups=groups,
            columns=columns,
            **drain,
        )

    def _weights(self, linear: IntLinear) -> Weights:
        return Weights(
            linear,
            natural(linear.inputs, self.arch.depth),
            natural(linear.outputs, self.arch.width),
        )

    def _to_residual(self, first_row: int = 0) -> dict[str, int | Address]:
        return {
            "kind": isa.Drain.RESIDUAL,
            "base": first_row * self._residual_words,
            "stride": self._residual_words,
        }

    # Parts of the model.

    def _embed(self) -> None:
        graph, arch = self.graph, self.arch
        embed = graph.embed
        rows = graph.gather.shape[0]
        patches = self._buffer("patches", rows, embed.linear.inputs)
        self._emit(
            isa.Opcode.LOAD,
            writes(patches),
            window=isa.Window.INPUT,
            space=isa.Space.ACTIVATION,
            words=patches.words,
            base=Address(patches),
        )
        self._emit(
            isa.Opcode.LOAD,
            (RESIDUAL_WRITE,),
            window=isa.Window.CONSTANT,
            space=isa.Space.RESIDUAL,
            offset=0,
            words=graph.tokens * self._residual_words,
            base=0,
        )
        self._linear(
            patches,
            self._weights(embed.linear),
            Rows(rows),
            self._to_residual(embed.first_row),
            (RESIDUAL_READ, RESIDUAL_WRITE),
            columns=layout.words(embed.linear.outputs, arch.lanes) * arch.lanes,
        )

    def _attention(self, layer: IntAttention) -> None:
        arch, tokens = self.arch, self.graph.tokens
        narrow = self._norm(layer.norm, tokens)
        projected = {}
        for name, linear, dim, side in (
            ("key", layer.key, layer.head_dim, 1),
            ("query", layer.query, layer.head_dim, 0),
            ("value", layer.value, layer.value_dim, 1),
        ):
            indices = per_head(layer.heads, dim, arch.depth)
            buffer = self._buffer(name, tokens, len(indices), side)
            projected[name] = buffer
            self._linear(
                narrow,
                Weights(linear, natural(linear.inputs, arch.depth), pad_to(indices, arch.width)),
                Rows(tokens),
                {"kind": isa.Drain.INT8, "base": Address(buffer), "stride": buffer.words // tokens},
                writes(buffer),
                columns=len(indices),
            )
        value_columns = per_head(layer.heads, layer.value_dim, arch.depth)
        attended = self._buffer("attended", tokens, len(value_columns))
        self._heads(layer, projected, attended)
        self._linear(
            attended,
            Weights(layer.output, value_columns, natural(layer.output.outputs, arch.width)),
            Rows(tokens),
            self._to_residual(),
            (RESIDUAL_READ, RESIDUAL_WRITE),
            columns=self._residual_words * arch.lanes,
        )

    def _heads(self, layer: IntAttention, projected: dict[str, Buffer], attended: Buffer) -> None:
        """Scores of one block run on the array while the softmax of the one before drains."""
        tokens = self.graph.tokens
        key_tiles = layout.words(tokens, self.arch.width)
        block = min(tokens, self.arch.accumulator_rows // key_tiles)
        blocks = [
            (head, first, min(block, tokens - first))
            for head in range(layer.heads)
            for first in range(0, tokens, block)
        ]
        probabilities: list[Buffer] = []
        for number, (head, first, rows) in enumerate(blocks):
            probabilities.append(self._scores(layer, projected, head, first, rows))
            if number:
                self._mix(layer, projected, attended, probabilities[-2], *blocks[number - 1])
        self._mix(layer, projected, attended, probabilities[-1], *blocks[-1])

    def _scores(
        self, layer: IntAttention, projected: dict[str, Buffer], head: int, first: int, rows: int
    ) -> Buffer:
        """MATMUL of queries and keys of one head and row block, and its softmax."""
        tokens, words = self.graph.tokens, self._words(layer.head_dim)
        stride = words * layer.heads
        key_tiles = layout.words(tokens, self.arch.width)
        probability = self._buffer(f"probability{head}.{first}", rows, tokens)
        self._emit(
            isa.Opcode.MATMUL,
            reads(projected["query"], projected["key"]),
            stationary=isa.Stationary.COLUMNS,
            streamed=isa.Streamed.SIGNED8,
            track_maximum=1,
            rows=rows,
            k_tiles=words,
            n_tiles=key_tiles,
            groups=1,
            stream_base=Address(projected["query"], first * stride + head * words),
            stream_stride=stride,
            stationary_base=Address(projected["key"], head * words),
            stationary_stride=stride,
            stationary_rows=tokens,
        )
        self._emit(
            isa.Opcode.DRAIN,
            writes(probability),
            kind=isa.Drain.SOFTMAX,
            rows=rows,
            n_tiles=key_tiles,
            groups=1,
            columns=tokens,
            base=Address(probability),
            stride=self._words(tokens),
            multiplier=layer.softmax.multiplier,
            shift=layer.softmax.shift,
        )
        return probability

    def _mix(
        self,
        layer: IntAttention,
        projected: dict[str, Buffer],
        attended: Buffer,
        probability: Buffer,
        head: int,
        first: int,
        rows: int,
    ) -> None:
        """MATMUL of probabilities and values of one head and row block, scaled by 1/sum."""
        arch, tokens = self.arch, self.graph.tokens
        words = self._words(layer.value_dim)
        stride = words * layer.heads
        columns = words * arch.depth
        tiles = layout.words(columns, arch.width)
        self._emit(
            isa.Opcode.MATMUL,
            reads(probability, projected["value"]),
            stationary=isa.Stationary.ROWS,
            streamed=isa.Streamed.UNSIGNED8,
            rows=rows,
            k_tiles=self._words(tokens),
            n_tiles=1,
            groups=tiles,
            stream_base=Address(probability),
            stream_stride=self._words(tokens),
            stationary_base=Address(projected["value"], head * words),
            stationary_stride=stride,
            stationary_rows=tokens,
        )
        self._emit(
            isa.Opcode.DRAIN,
            writes(attended),
            kind=isa.Drain.ATTENTION,
            rows=rows,
            n_tiles=1,
            groups=tiles,
            columns=columns,
            base=Address(attended, first * stride + head * words),
            stride=stride,
            multiplier=layer.scale.multiplier,
            shift=layer.scale.shift,
        )

    def _hidden(self, mlp: IntMlp, name: str = "hidden") -> Buffer:
        return self._buffer(name, self.graph.tokens, mlp.up.outputs, 1)

    def _up(
        self, source: Buffer, hidden: Buffer, mlp: IntMlp, rows: Rows, gather: bool = False
    ) -> None:
        words = self._words(mlp.up.outputs)
        self._linear(
            source,
            self._weights(mlp.up),
            rows,
            {
                "kind": isa.Drain.GELU,
                "base": Address(hidden),
                "stride": words,
                "multiplier": mlp.gelu.multiplier,
                "shift": mlp.gelu.shift,
            },
            writes(hidden),
            columns=layout.words(mlp.up.outputs, self.arch.lanes) * self.arch.lanes,
            gather=gather,
        )

    def _down(self, hidden: Buffer, mlp: IntMlp, rows: Rows) -> None:
        drain = self._to_residual()
        if rows.expert is not None:
            drain["scatter"] = 1
        self._linear(
            hidden,
            self._weights(mlp.down),
            rows,
            drain,
            (RESIDUAL_READ, RESIDUAL_WRITE),
            columns=self._residual_words * self.arch.lanes,
        )

    def _moe(self, layer: IntMoe, index: int) -> None:
        """Gate, routing, then experts: the next one's first product runs while the last one's
        hidden activations are still being drained."""
        tokens = self.graph.tokens
        narrow = self._norm(layer.norm, tokens, wide=True)
        plane = narrow.words // 3
        sequence = self._sequence(index)
        logit_tiles = layout.words(layer.gate.outputs, self.arch.width)
        self._linear(
            narrow,
            self._weights(layer.gate),
            Rows(tokens),
            {"kind": isa.Drain.LOGITS},
            (),
            columns=layer.gate.outputs,
            streamed=isa.Streamed.SIGNED16,
            plane=plane,
            one_group=logit_tiles > 1,
        )
        self._emit(
            isa.Opcode.ROUTE,
            (QUEUES_WRITE,),
            rows=tokens,
            first_row=0,
            experts=len(layer.experts),
            top_k=layer.top_k,
            renormalise=int(layer.renormalise),
            multiplier=layer.softmax.multiplier,
            shift=layer.softmax.shift,
            sequence=sequence,
        )
        hidden = [self._hidden(layer.experts[0], f"hidden{i}") for i in range(2)]
        pending: Iterator[tuple[int, IntMlp]] = iter(enumerate(layer.experts))
        previous: tuple[int, IntMlp] | None = None
        for number, expert in pending:
            self._up(narrow, hidden[number % 2], expert, Rows(0, number), gather=True)
            if previous is not None:
                self._down(hidden[previous[0] % 2], previous[1], Rows(0, previous[0]))
            previous = (number, expert)
        assert previous is not None
        self._down(hidden[previous[0] % 2], previous[1], Rows(0, previous[0]))

    def _sequence(self, index: int) -> int:
        """Number of the routing of layer ``index``, 1 .. 255."""
        return sum(isinstance(layer, IntMoe) for layer in self.graph.layers[: index + 1]) % 255 + 1

    def _head(self) -> None:
        head = self.graph.head
        narrow = self._norm(head.norm, head.rows, head.first_row)
        self._emit(
            isa.Opcode.STORE,
            words=layout.output_chunks(self.arch, head.rows, head.linear.outputs),
        )
        self._linear(
            narrow,
            self._weights(head.linear),
            Rows(head.rows),
            {"kind": isa.Drain.OUTPUT},
            (),
            columns=head.linear.outputs,
        )

    def _check_capacity(self) -> None:
        """Refuse what no schedule can place."""
        graph, arch = self.graph, self.arch
        tokens = max(graph.tokens, graph.head.rows, graph.gather.shape[0])
        rules = [
            (
                "its residual stream needs {} words, the residual scratchpad has {}",
                graph.tokens * self._residual_words,
                arch.residual_words,
            ),
            ("its {} tokens exceed the {} accumulator rows", tokens, arch.accumulator_rows),
        ]
        for layer in graph.layers:
            if isinstance(layer, IntMoe):
                experts = len(layer.experts)
                logit_blocks = layout.words(experts, arch.width)
                where = f"layer {layer.name}"
                rules += [
                    (where + " has {} experts, the router holds {}", experts, arch.max_experts),
                    (where + " routes {} tokens, the router holds {}", tokens, arch.max_tokens),
                    (
                        where + " needs {} parameter blocks for its logits, there are {}",
                        logit_blocks,
                        isa.PARAMETER_BLOCKS,
                    ),
                ]
        for rule, needed, available in rules:
            if needed > available:
                raise UserError(
                    f"the model does not fit target {arch.name}: {rule.format(needed, available)};"
                    " use a larger target"
                )
