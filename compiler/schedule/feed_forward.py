"""Feed-forward layers: dense, and mixtures whose experts run one behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moesaic.compiler.schedule.gates import lower_gates
from moesaic.compiler.schedule.head_start import add_to_stream, head_start
from moesaic.compiler.schedule.lists import queue_of
from moesaic.compiler.schedule.operands import Normal, Rows, Source, natural, pad_to
from moesaic.compiler.schedule.steps import (
    Address,
    Buffer,
    Weights,
    updates_stream,
    writes,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntDense, IntMlp, IntMoe
from moesaic.spec.lists import is_scattered


def lower_dense(writer: StepWriter, layer: IntDense, index: int, normal: Normal) -> None:
    """Write the steps of a dense MLP layer on normalised rows.

    The second product of a block of rows comes behind the first one of the next block, so that
    hidden activations drain meanwhile, and the block behind that is normalised, if rows are not
    kept. Tokens that do not follow one another are one block.
    """
    if is_scattered(layer):
        queue = queue_of(writer, index)
        inner = _hidden(writer, (layer.mlp,), queue.count, "hidden")
        source = normal.source(layer.wide)
        _lower_up(writer, source, inner, layer.mlp, queue, gather=True)
        _lower_down(writer, inner, layer.mlp, queue)
        return
    rows = writer.rows
    if layer.tokens is not None:
        rows = range(int(layer.tokens[0]), int(layer.tokens[-1]) + 1)
    blocks = writer.blocks(rows)
    most = max(len(block) for block in blocks)
    hidden = [_hidden(writer, (layer.mlp,), most, f"hidden{i}") for i in range(2)]

    def read(block: range) -> Normal:
        if not normal.place:
            writer.fetch(block)
        return writer.normalise(normal, block)

    ahead = read(blocks[0])
    for number in range(len(blocks) + 1):
        if number < len(blocks):
            source, rows_of = ahead.source(layer.wide), Rows.block(blocks[number])
            first = None if layer.parallel else ahead
            _lower_up(writer, source, hidden[number % 2], layer.mlp, rows_of, first=first)
        if number + 1 < len(blocks):
            ahead = read(blocks[number + 1])
        if number:
            done = blocks[number - 1]
            if normal.place:
                writer.fetch(done)
            place = writer.resident(done).start
            _lower_down(writer, hidden[(number - 1) % 2], layer.mlp, Rows(len(done)), place)
            writer.complete(done.stop)


def lower_moe(writer: StepWriter, layer: IntMoe, index: int, normal: Normal) -> None:
    """Gate, routing, then experts: first products run some experts ahead of the second ones, so
    that hidden activations drain meanwhile. Their sums keep the experts' order."""
    tokens = len(writer.rows)
    lower_gates(writer, layer, index, normal)
    ahead = min(writer.schedule.experts_ahead, len(layer.experts) - 1)
    hidden = [_hidden(writer, layer.experts, tokens, f"hidden{i}") for i in range(ahead + 1)]
    rows = normal.source(layer.wide)
    for number in range(len(layer.experts) + ahead):
        if number < len(layer.experts):
            expert = layer.experts[number]
            place = hidden[number % len(hidden)]
            _lower_up(writer, rows, place, expert, Rows(0, number), gather=True)
        if number >= ahead:
            done = number - ahead
            place = hidden[done % len(hidden)]
            _lower_down(writer, place, layer.experts[done], Rows(0, done))


@dataclass(frozen=True)
class _Columns:
    """Where an MLP's hidden channels lie in a row: first the high and the low plane of those in 16
    bits, then the others. Both parts begin with a column tile, so that each has a DRAIN of its own.

    Attributes
    ----------
    wide, narrow
        Channels of both parts.
    wide_words, words
        Words of a plane of the first part, and of both planes and the second part.
    """

    wide: tuple[int, ...]
    narrow: tuple[int, ...]
    wide_words: int
    words: int

    @staticmethod
    def of(writer: StepWriter, mlp: IntMlp) -> _Columns:
        wide, narrow = range(mlp.wide), range(mlp.wide, mlp.hidden)
        planes = writer.words(len(wide))
        return _Columns(tuple(wide), tuple(narrow), planes, 2 * planes + writer.words(len(narrow)))


def _hidden(writer: StepWriter, mlps: Sequence[IntMlp], rows: int, name: str) -> Buffer:
    """Room for ``rows`` hidden rows of any of ``mlps``."""
    words = max(_Columns.of(writer, mlp).words for mlp in mlps)
    return Buffer(f"{writer.label}.{name}", rows * words, 1)


def _lower_up(
    writer: StepWriter,
    source: Source,
    hidden: Buffer,
    mlp: IntMlp,
    rows: Rows,
    gather: bool = False,
    first: Normal | None = None,
) -> None:
    """The first product; of what is the ``first`` to read normalised rows some column tiles begin
    with those that are ready."""
    arch, columns = writer.arch, _Columns.of(writer, mlp)
    inputs = natural(mlp.up.inputs, arch.depth)
    for part, word, form in (
        (columns.wide, 0, {"wide": 1, "plane_stride": columns.wide_words}),
        (columns.narrow, 2 * columns.wide_words, {"offset": mlp.offset}),
    ):
        if not part:
            continue
        function, tables = writer.activation(mlp.activation)
        pieces = [(rows, *piece) for piece in _pieces(writer, mlp, part, rows)]
        if first and not mlp.paired and part[0] == 0:
            pieces = _begin(writer, first, part, rows)
        for mine, start, columns_in in pieces:
            row = (mine.first - rows.first) * columns.words
            writer.linear(
                source,
                Weights(mlp.up, inputs, pad_to(columns_in, arch.width)),
                mine,
                {
                    "kind": isa.Drain.ACTIVATION,
                    "base": Address(hidden, word + row + writer.words(start)),
                    "stride": columns.words,
                    "multiplier": mlp.scale.multiplier,
                    "shift": mlp.scale.shift,
                    "paired": int(mlp.paired),
                    **function,
                    **form,
                },
                (*writes(hidden), *tables),
                columns=layout.words(len(columns_in), arch.lanes) * arch.lanes,
                gather=gather,
                one_group=mlp.paired or mine is not rows,
            )


def _begin(
    writer: StepWriter, normal: Normal, part: tuple[int, ...], rows: Rows
) -> list[tuple[Rows, int, tuple[int, ...]]]:
    """The products of hidden channels ``part``, with a head start if there is one: (rows, first
    channel of the part, outputs of ``up``)."""
    every = range(rows.first, rows.first + rows.count)
    width = writer.arch.width
    parts, tiles = head_start(writer, normal, every, layout.words(len(part), width))
    ahead = min(tiles * width, len(part))
    begun = [(Rows.block(mine), 0, part[:ahead]) for mine in parts if ahead]
    return begun + ([(rows, ahead, part[ahead:])] if ahead < len(part) else [])


def _pieces(
    writer: StepWriter, mlp: IntMlp, part: tuple[int, ...], rows: Rows
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The products that hidden channels ``part`` come from: (first channel of the part, outputs of
    ``up``, -1 for padding).

    One product, unless they are pairs: those need a group of their own, which an accumulator bank
    must hold. A chunk of factors comes before the chunk of what they multiply.
    """
    if not mlp.paired:
        yield 0, part
        return
    arch = writer.arch
    # A piece begins with a word of hidden channels; its tiles hold half as many.
    tiles = max(1, 2 * arch.depth // arch.width)
    limit = writer.bank_limit(rows)
    most = min(limit, writer.schedule.bank_tiles) // tiles * tiles
    if not most and tiles <= limit:
        most = tiles
    if not most:
        most_rows = rows.count or len(writer.rows)
        raise UserError(
            f"the model does not fit target {arch.name}: layer {writer.label} multiplies pairs of"
            f" hidden channels, which needs room for {tiles} column tiles of {most_rows} tokens"
            f" in an accumulator bank: use a target with {tiles * most_rows} accumulator_rows and"
            f" more, not"
            f" {arch.accumulator_rows}"
        )
    channels = most * arch.width // 2
    for start in range(0, len(part), channels):
        outputs: list[int] = []
        for chunk in range(start, min(start + channels, len(part)), arch.lanes):
            active = pad_to(part[chunk : min(chunk + arch.lanes, start + channels)], arch.lanes)
            outputs += [c if c < 0 else c + mlp.hidden for c in active]
            outputs += active
        yield start, tuple(outputs)


def _lower_down(
    writer: StepWriter, hidden: Buffer, mlp: IntMlp, rows: Rows, first_row: int = 0
) -> None:
    """The second product; its row 0 is row ``first_row`` of the residual memory, or what the queue
    says."""
    columns = _Columns.of(writer, mlp)
    source = Source(hidden, isa.Streamed.UNSIGNED8)
    if mlp.wide:
        source = Source(
            hidden,
            isa.Streamed.SIGNED16,
            plane=columns.wide_words,
            stride=columns.words,
            wide=columns.wide_words,
        )
    depth, width = writer.arch.depth, writer.arch.width
    inputs = pad_to(columns.wide, depth) + pad_to(columns.narrow, depth)
    if rows.expert is None:
        place = range(first_row, first_row + rows.count)
        add_to_stream(writer, source, mlp.down, inputs, rows, place)
        return
    writer.linear(
        source,
        Weights(mlp.down, inputs, natural(mlp.down.outputs, width)),
        rows,
        {**writer.to_residual(first_row), "scatter": 1},
        updates_stream(None),
        columns=writer.residual_words * writer.arch.lanes,
    )
