"""Random instruction sequences for the vector unit, with all that they must produce.

The expectations follow docs/architecture.md and moesaic.spec.semantics, instruction by
instruction, on plain tensors: nothing here knows how the unit works.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moesaic.spec import semantics, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS, Wide
from moesaic.spec.formats import ROTARY_BITS
from moesaic.spec.isa import Drain, Opcode, decode, encode

ROWS_OUTSIDE = tuple(kind for kind, each in DRAINS.items() if each.rows_outside)
WITHOUT_PARAMETERS = tuple(kind for kind, each in DRAINS.items() if not each.parameters)
WIDE_DRAINS = tuple(kind for kind, each in DRAINS.items() if each.wide is not Wide.NEVER)


@dataclass
class Group:
    """One accumulator bank as the matrix unit hands it over."""

    accumulators: Tensor  # [n_tiles * rows, width]
    maximum: list[int]


@dataclass
class Done:
    """What must have left the unit when an instruction gives its tokens."""

    signal: int
    writes: int
    logits: int
    outputs: int


@dataclass
class Program:
    """Instructions, what the other units deliver for them, and the expected results."""

    arch: ArchConfig
    queues: list[list[tuple[int, int]]]
    residual: Tensor  # [words, lanes], changes as instructions are added
    tables: Tensor  # [tables, entries], of activations
    instructions: list[tuple[bytes, int]] = field(default_factory=list)  # with wait mask
    groups: list[Group] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)  # [width, 3]: bias, multiplier, shift
    writes: list[tuple[int, int, list[int]]] = field(default_factory=list)  # word, byte, bytes
    logits: list[tuple[list[int], int]] = field(default_factory=list)
    outputs: list[list[int]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    chunks: int = 0

    def __post_init__(self) -> None:
        self.initial_residual = self.residual.clone()
        names = ("vector_chunks", "score_words", "score_reads", "activation_lookups", "norm_rows")
        self.events = dict.fromkeys(names, 0)

    def _end(self, opcode: Opcode, wait: int | None, signal: int | None, **fields: int) -> None:
        wait = random.getrandbits(6) & random.getrandbits(6) if wait is None else wait
        signal = random.getrandbits(6) if signal is None else signal
        raw = encode(opcode, wait=wait, signal=signal, layer=random.getrandbits(8), **fields)
        self.instructions.append((raw, wait))
        self.done.append(Done(signal, len(self.writes), len(self.logits), len(self.outputs)))

    def describe(self, writes_left: int) -> str:
        """The instruction of the activation write before the last ``writes_left`` ones."""
        number = len(self.writes) - writes_left
        for index, done in enumerate(self.done):
            if number <= done.writes:
                return f"instruction {index}: {decode(self.instructions[index][0])}"
        return "no instruction"

    def corrupt(self, what: str) -> None:
        """Falsify one expectation in the middle, so that a bench that checks it must fail."""
        if what == "writes":
            self.writes[len(self.writes) // 2][2][0] ^= 1
        elif what == "logits":
            self.logits[len(self.logits) // 2][0][-1] ^= 1
        elif what == "outputs":
            self.outputs[len(self.outputs) // 2][-1] ^= 1
        elif what == "residual":
            self.residual[self.arch.residual_words // 2, 0] ^= 1
        elif what == "signal":
            self.done[len(self.done) // 2].signal ^= 1
        else:
            self.events[what] += 1

    def _write(self, word: int, byte: int, values: Tensor) -> None:
        self.writes.append((word, byte, [v & 255 for v in values.tolist()]))

    def drain(
        self,
        kind: Drain,
        *,
        rows: int,
        n_tiles: int = 1,
        groups: int = 1,
        columns: int,
        base: int = 0,
        stride: int = 1,
        multiplier: int = 0,
        shift: int = 0,
        offset: int = 0,
        wide: bool = False,
        plane_stride: int = 0,
        table: int = 0,
        negative_table: int = 0,
        linear: bool = True,
        paired: bool = False,
        rotary: bool = False,
        angles: int = 0,
        angle_words: int = 2,
        expert: int | None = None,
        scatter: bool = False,
        magnitude: int = 24,
        wait: int | None = None,
        signal: int | None = None,
    ) -> None:
        """Append a DRAIN of random accumulators below ``2**magnitude``."""
        arch = self.arch
        function = (table, negative_table, linear, paired)
        turning = (angles, angle_words) if rotary else None
        actual = rows if expert is None else len(self.queues[expert])
        if actual:
            for group in range(groups):
                tiles = [self._tile(kind, actual, magnitude) for _ in range(n_tiles)]
                self._drain_group(
                    kind, tiles, group, columns, base, stride, multiplier, shift, offset,
                    plane_stride if wide else None,
                    self.queues[expert] if expert is not None and scatter else None, function,
                    turning,
                )  # fmt: skip
            if kind == Drain.ATTENTION:
                self.sums.pop(0)
            if kind == Drain.SOFTMAX:
                self.events["score_words"] += actual * -(-columns // arch.most_lanes)
        self._end(
            Opcode.DRAIN, wait, signal, kind=kind, rows=rows, n_tiles=n_tiles, groups=groups,
            columns=columns, base=base, stride=stride, multiplier=multiplier, shift=shift,
            offset=offset, wide=int(wide), plane_stride=plane_stride, table=table,
            negative_table=negative_table, linear=int(linear), paired=int(paired),
            rotary=int(rotary), angles=angles, angle_words=angle_words,
            expert=expert or 0, predicated=int(expert is not None), scatter=int(scatter),
        )  # fmt: skip

    def _tile(self, kind: Drain, rows: int, magnitude: int) -> tuple[Tensor, Tensor | None]:
        width, high = self.arch.width, 1 << magnitude
        accumulators = torch.randint(-high, high, (rows, width))
        if random.random() < 0.1:
            accumulators[:] = random.choice([0, -(1 << 31), (1 << 31) - 1])
        if kind in WITHOUT_PARAMETERS:
            return accumulators, None
        bias = torch.randint(-high, high, (width,)) >> random.choice([0, 3, 31])
        multiplier = torch.randint(0, 1 << 16, (width,))
        near = magnitude + 16 - DRAINS[kind].bits + torch.randint(-3, 6, (width,))
        block = torch.stack([bias, multiplier, near.clamp(0, 62)], dim=1)
        self.blocks.append(block)
        return accumulators, block

    def _drain_group(
        self,
        kind: Drain,
        tiles: list[tuple[Tensor, Tensor | None]],
        group: int,
        columns: int,
        base: int,
        stride: int,
        multiplier: int,
        shift: int,
        offset: int,
        plane_stride: int | None,
        queue: list[tuple[int, int]] | None,
        function: tuple[int, int, bool, bool],
        turning: tuple[int, int] | None,
    ) -> None:
        arch = self.arch
        first_column = group * len(tiles) * arch.width
        scores = torch.cat([tile for tile, _ in tiles], dim=1)  # [rows, n_tiles * width]
        rows = scores.shape[0]
        maximum = scores[:, : max(0, columns - first_column)].amax(1) if kind in (
            Drain.SOFTMAX,
        ) else torch.randint(-5, 5, (rows,))  # fmt: skip
        self.groups.append(Group(torch.cat([tile for tile, _ in tiles]), maximum.tolist()))

        end = columns
        if kind == Drain.SOFTMAX:
            end = -(-columns // arch.depth) * arch.depth
            result = torch.zeros(rows, end, dtype=torch.int64)
            result[:, :columns], sums = semantics.softmax(scores[:, :columns], multiplier, shift)
            self.sums.append(sums)
        elif kind == Drain.ATTENTION:
            m, s = semantics.attention_scale(self.sums[0][:rows, None], multiplier, shift)
            result = semantics.requantise(scores, m, s, 8 if plane_stride is None else 16)
        else:
            blocks = torch.cat([block for _, block in tiles if block is not None])
            bias, m, s = blocks.unbind(1)
            bits = 16 if kind == Drain.INT8 and plane_stride is not None else DRAINS[kind].bits
            bits = bits if turning is None else ROTARY_BITS
            result = semantics.requantise(scores + bias, m, s, bits)
        paired = kind == Drain.ACTIVATION and function[3]
        if kind == Drain.ACTIVATION:
            settings = multiplier, shift, None if plane_stride is not None else offset
            result = self._activate(result, *settings, *function)
        if turning is not None:
            result = self._rotate(result, *turning, shift, plane_stride is not None)
        planes = [result]
        if kind in WIDE_DRAINS and plane_stride is not None:
            planes = [result >> 8, result & 255]

        local_end = min(end - first_column, len(tiles) * arch.width)
        both = kind == Drain.SOFTMAX or (kind == Drain.ATTENTION and plane_stride is None)
        lanes = arch.most_lanes if both else arch.lanes  # columns of a step
        starts = range(0, max(local_end, 0), lanes)
        tiled = [[s for s in starts if s // arch.width == n] for n in range(len(tiles))]
        order = (
            [(r, s) for r in range(rows) for s in starts]
            if kind in ROWS_OUTSIDE or paired or turning is not None
            else [(r, s) for chunk_starts in tiled for r in range(rows) for s in chunk_starts]
        )
        for r, start in order:
            if turning is not None:  # the results of both chunks come with the second one
                self._write_rotated(planes, r, start, first_column, columns, base, stride,
                                    plane_stride or 0, queue)  # fmt: skip
                continue
            target, weight = queue[r] if queue is not None else (r, semantics.ONE_Q15)
            column = first_column + start
            self.chunks += 1
            if paired and start // arch.lanes % 2 == 0:  # its result comes with the next one
                self.events["vector_chunks"] += column < columns
                continue
            values = result[r, start : start + arch.lanes]
            if column < columns:
                self.events["vector_chunks"] += 1
                self.events["score_reads"] += kind == Drain.SOFTMAX
                if kind == Drain.ACTIVATION:
                    self.events["activation_lookups"] += min(arch.lanes, columns - column)
            if kind == Drain.LOGITS:
                last = start + arch.lanes >= local_end
                self.logits.append(([v & 0xFFFFFF for v in values.tolist()], int(last)))
            elif kind == Drain.OUTPUT:
                self.outputs.append([v & 0xFFFF for v in values.tolist()])
            elif kind == Drain.RESIDUAL:
                word = base + target * stride + column // arch.lanes
                old = self.residual[word]
                self.residual[word] = semantics.residual_add(old, values, weight)
            else:
                if paired:
                    column = start = start // 2 // arch.lanes * arch.lanes
                word = base + target * stride + column // arch.depth
                for index, plane in enumerate(planes):
                    # Of a pair of sums the first chunk alone, if the second one has no column.
                    alone = kind == Drain.ATTENTION and columns - column <= arch.lanes
                    values = plane[r, start : start + (arch.lanes if alone else lanes)]
                    at = word + index * (plane_stride or 0)
                    self._write(at, column % arch.depth, values)

    def _rotate(
        self, values: Tensor, angles: int, angle_words: int, shift: int, wide: bool
    ) -> Tensor:
        """Rotated codes of [rows, columns] whose chunks come in pairs."""
        rows, lanes = len(values), self.arch.lanes
        first, second = values.reshape(rows, -1, 2, lanes).unbind(2)
        words = angles + torch.arange(rows)[:, None] * angle_words
        words = words + 2 * torch.arange(first.shape[1]) % angle_words
        cosine, sine = (semantics.angle(self.residual[words + which]) for which in (0, 1))
        turned = semantics.rotate(first, second, cosine, sine, shift, wide)
        return torch.stack(turned, 2).flatten(1)

    def _write_rotated(
        self,
        planes: list[Tensor],
        row: int,
        start: int,
        first_column: int,
        columns: int,
        base: int,
        stride: int,
        plane_stride: int,
        queue: list[tuple[int, int]] | None,
    ) -> None:
        arch = self.arch
        self.chunks += 2
        self.events["vector_chunks"] += first_column + start < columns
        if start // arch.lanes % 2 == 0:
            return
        target = queue[row][0] if queue is not None else row
        for column in (start - arch.lanes, start):
            for index, plane in enumerate(planes):
                word = base + target * stride + column // arch.depth + index * plane_stride
                self._write(word, column % arch.depth, plane[row, column : column + arch.lanes])

    def _activate(
        self,
        z: Tensor,
        multiplier: int,
        shift: int,
        offset: int | None,
        table: int,
        negative_table: int,
        linear: bool,
        paired: bool,
    ) -> Tensor:
        """Hidden codes of 18-bit values; int16 without an ``offset``."""
        factor: int | Tensor = multiplier
        if paired:
            first, second = z.reshape(len(z), -1, 2, self.arch.lanes).unbind(2)
            factor, z = semantics.saturate(first, 16).flatten(1), second.flatten(1)
        contents = self.tables[table], self.tables[negative_table]
        fine = semantics.activation_fine(z, *contents, linear)
        if offset is None:
            return semantics.hidden_wide(fine, factor, shift)
        return semantics.hidden_code(fine, factor, shift, offset)

    def norm(
        self,
        *,
        rows: int,
        words: int,
        channels: int,
        source_base: int = 0,
        source_stride: int,
        base: int = 0,
        stride: int,
        epsilon: int = 1,
        multiplier: int,
        shift: int,
        wide: bool = False,
        plain: bool = False,
        store: bool = False,
        plane_stride: int = 0,
        wait: int | None = None,
        signal: int | None = None,
    ) -> None:
        """Append a NORM of the residual values as they will be by then."""
        lanes, depth = self.arch.lanes, self.arch.depth
        step = 2 if self.arch.chunk_pairs and not store else 1  # words that are written together
        first = [source_base + r * source_stride for r in range(rows)]
        x = torch.stack([self.residual[f : f + words].flatten() for f in first])
        if plain:
            int8, int16 = semantics.plain_rows(x, channels, multiplier, shift)
        else:
            int8, int16 = semantics.layer_norm(x, channels, epsilon, multiplier, shift)
        planes = [int8, int16 >> 8, int16 & 255] if wide else [int8]
        for r in range(rows):
            for word in range(0, words, step):
                column = word * lanes
                at = base + r * stride + column // depth
                if store:
                    values = int16[r, column : column + lanes]
                    self.outputs.append([v & 0xFFFF for v in values.tolist()])
                    continue
                for index, plane in enumerate(planes):
                    values = plane[r, column : min(column + step * lanes, words * lanes)]
                    self._write(at + index * plane_stride, column % depth, values)
        self.events["norm_rows"] += rows
        self._end(
            Opcode.NORM, wait, signal, rows=rows, words=words, channels=channels,
            source_base=source_base, source_stride=source_stride, base=base, stride=stride,
            epsilon=epsilon, multiplier=multiplier, shift=shift, wide=int(wide),
            plane_stride=plane_stride, plain=int(plain), store=int(store),
        )  # fmt: skip


def empty_program(arch: ArchConfig) -> Program:
    """Random residual memory and queues: some empty, tokens ascending, weights up to 1.0."""
    residual = torch.randint(-(1 << 15), 1 << 15, (arch.residual_words, arch.lanes))
    # A usual residual is far from saturation, so that sums of both kinds occur.
    residual[::2] >>= 4
    tokens = min(arch.max_tokens, 20)
    queues = []
    for expert in range(arch.max_experts):
        count = random.choice([0, 1, 2, random.randint(1, tokens), tokens])
        count = [0, tokens, 1][expert] if expert < 3 else count
        chosen = sorted(random.sample(range(tokens), count))
        queues.append([(t, random.choice([1 << 15, 0, random.getrandbits(15)])) for t in chosen])
    return Program(arch, queues, residual, random_tables())


def random_tables() -> Tensor:
    """Entries of all activation tables, in their whole range: differences are within bounds."""
    most, slope = 1 << tables.ACTIVATION_VALUE_BITS - 1, 1 << tables.ACTIVATION_SLOPE_BITS - 1
    steps = torch.randint(-slope, slope, (tables.ACTIVATION_TABLES, tables.ACTIVATION_ENTRIES))
    steps >>= torch.randint(0, slope.bit_length(), (tables.ACTIVATION_TABLES, 1))
    values = [torch.randint(-most, most, (tables.ACTIVATION_TABLES,))]
    for column in steps.T[1:]:
        turned = (values[-1] + column).abs() >= most  # there is no room: back
        values.append(values[-1] + torch.where(turned, -column.clamp(min=1 - slope), column))
    return torch.stack(values, 1).clamp(-most, most - 1)


def add_random_drain(program: Program, kind: Drain) -> None:
    """A DRAIN of any shape that the memories allow."""
    arch = program.arch
    n_tiles = random.choice([1, 1, 2, 3])
    groups = 1 if kind in ROWS_OUTSIDE else random.choice([1, 1, 2, 3])
    expert = None
    if kind not in (*ROWS_OUTSIDE, Drain.ATTENTION, Drain.OUTPUT) and random.random() < 0.4:
        expert = random.randrange(arch.max_experts)
    most = min(20, arch.accumulator_rows // n_tiles)
    rows = random.choice([1, 2, random.randint(1, most)])
    if kind == Drain.ATTENTION:
        rows = len(program.sums[0])
        n_tiles = min(n_tiles, arch.accumulator_rows // rows)
    all_columns = groups * n_tiles * arch.width
    if kind == Drain.SOFTMAX and random.random() < 0.2:  # as many columns as there are thresholds
        n_tiles = arch.accumulator_rows // 2 - random.randrange(3)
        rows, all_columns = random.choice([1, 2]), n_tiles * arch.width
    columns = all_columns - random.choice([0, random.randrange(arch.width)])
    if kind != Drain.SOFTMAX and random.random() < 0.15:
        columns = random.randint(1, all_columns)  # whole tiles without a valid column
    is_residual = kind == Drain.RESIDUAL
    word = arch.lanes if is_residual else arch.depth
    words = arch.residual_words if is_residual else arch.activation_words
    stride = -(-columns // word) + random.randrange(3)
    wide = kind in WIDE_DRAINS and random.random() < 0.5
    plane_stride = 20 * stride if wide or random.random() < 0.3 else 0
    base = random.randrange(max(1, words - 21 * stride - plane_stride))
    magnitude = random.choice([31, 24, 16, 9])
    # GELU's result has 14 fraction bits; exponents are best around some hundreds.
    multiplier = random.randint(1 << 15, (1 << 16) - 1)
    paired = kind == Drain.ACTIVATION and random.random() < 0.4
    rotary = kind == Drain.INT8 and random.random() < 0.6
    if paired or rotary:
        groups, n_tiles = 1, n_tiles + (arch.width == arch.lanes and n_tiles % 2)
        rows = min(rows, arch.accumulator_rows // n_tiles)
        pairs = random.randint(1, n_tiles * arch.width // (2 * arch.lanes))
        columns = 2 * arch.lanes * pairs - random.randrange(arch.lanes)
    if rotary:
        stride = -(-2 * pairs * arch.lanes // arch.depth) + random.randrange(3)
        plane_stride = 20 * stride if wide else 0
        base = random.randrange(max(1, words - 21 * stride - plane_stride))
    angle_words = 2 * random.choice([1, 2, 3, random.randint(1, 8)])
    angles = random.randrange(arch.residual_words - 20 * angle_words)
    shift = {
        Drain.ACTIVATION: random.randint(13, 19) if wide else random.randint(20, 27),
        Drain.SOFTMAX: magnitude + 16 - random.randint(8, 13),
        Drain.ATTENTION: max(0, magnitude - random.randint(14, 24) - 8 * wide),
    }.get(kind, random.getrandbits(6))
    if rotary:
        shift = random.choice([14, 14, 15, 13, random.randint(0, 20)])
    program.drain(
        kind, rows=rows, n_tiles=n_tiles, groups=groups, columns=columns, base=base,
        stride=stride, multiplier=multiplier, shift=shift, offset=random.getrandbits(8),
        wide=wide or (kind not in WIDE_DRAINS and random.random() < 0.5),
        plane_stride=plane_stride,
        table=random.getrandbits(1), negative_table=random.getrandbits(1),
        linear=bool(random.getrandbits(1)), paired=paired,
        rotary=rotary, angles=angles, angle_words=angle_words,
        expert=expert,
        scatter=expert is not None and random.random() < 0.7, magnitude=magnitude,
    )  # fmt: skip


def add_random_norm(program: Program) -> None:
    """A NORM of any shape that the memories allow."""
    arch = program.arch
    words, rows = random.choice([1, 2, 5, 9]), random.choice([1, 3, random.randint(1, 40)])
    source_stride = words + random.randrange(2)
    rows = min(rows, arch.residual_words // source_stride)
    source_base = random.randrange(arch.residual_words - rows * source_stride + 1)
    stride = -(-words * arch.lanes // arch.depth) + random.randrange(2)
    plane_stride = rows * stride
    base = random.randrange(arch.activation_words - 3 * plane_stride)
    channels = words * arch.lanes - random.randrange(arch.lanes)
    plain = random.random() < 0.3
    least = channels.bit_length() + 15 if plain else 0  # so that not all of it saturates
    program.norm(
        rows=rows, words=words, channels=channels, source_base=source_base,
        source_stride=source_stride, base=base, stride=stride,
        epsilon=random.choice([0, 1, random.getrandbits(20), random.getrandbits(48)]),
        multiplier=random.randint(1 << 15, (1 << 16) - 1), shift=least + random.randint(0, 14),
        wide=random.random() < 0.5, plane_stride=plane_stride, plain=plain,
        store=random.random() < 0.3,
    )  # fmt: skip


def random_program(arch: ArchConfig, instructions: int) -> Program:
    """All kinds mixed; row scales are produced before they are used."""
    program = empty_program(arch)
    for _ in range(instructions):
        kinds: list[Drain | None] = [kind for kind in Drain if kind != Drain.ATTENTION]
        kinds += [Drain.RESIDUAL, None, None]
        if program.sums:
            kinds += [Drain.ATTENTION] * 4
        if len(program.sums) == 2:
            kinds = [kind for kind in kinds if kind != Drain.SOFTMAX]
        chosen = random.choice(kinds)
        if chosen is None:
            add_random_norm(program)
        else:
            add_random_drain(program, chosen)
    return program
