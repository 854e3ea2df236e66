"""Random MATMUL programs and what the matrix unit must do with them, computed naively.

Every instruction owns its part of the scratchpad and its own queue contents, which appear only
when its tokens are taken: a unit that reads too early reads garbage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import FROM_RING, Stationary, Streamed

LOWEST = -(1 << 31)


@dataclass
class Group:
    """One accumulator bank: [n_tiles * rows, width] sums, valid columns per n-tile, maxima."""

    sums: np.ndarray
    valid: np.ndarray
    maxima: np.ndarray | None
    shape: Shape


@dataclass
class Matmul:
    """One instruction with all it consumes and produces."""

    raw: int
    wait: int
    signal: int
    rows: int
    groups: list[Group] = field(default_factory=list)
    memory: dict[int, bytes] = field(default_factory=dict)
    queue: tuple[int, list[int]] | None = None
    fetched: bool | None = None
    ring: list[tuple[str, bytes]] = field(default_factory=list)
    stream_addresses: list[int] = field(default_factory=list)
    operand_addresses: list[int | None] = field(default_factory=list)
    """None: a tile without an existing word reads one, wherever, that nobody takes."""
    attention: bool = False
    ring_tiles: int = 0


@dataclass(kw_only=True)
class Shape:
    """Choices for one instruction; :func:`build` draws the data."""

    stationary: Stationary = Stationary.RING
    streamed: Streamed = Streamed.SIGNED8
    rows: int = 8
    k_tiles: int = 1
    n_tiles: int = 1
    groups: int = 1
    existing: int = 0
    predicated: bool = False
    gather: bool = False
    fetched: bool = True
    parameters: bool = False
    track_maximum: bool = False
    wait: int = 0
    signal: int = 0
    expert: int = 0
    extreme: bool = False
    fill: tuple[int, int] | None = None
    last_wide: int | None = None
    """Last k-tile with a high plane, in SIGNED16; all of them have one if not given."""


def random_shape(arch: ArchConfig, expert: int) -> Shape:
    """A legal instruction of any kind; ``expert`` must be used by no other one."""
    sources = [Stationary.RING, Stationary.RING, *Stationary]
    if not arch.four_bit_weights:
        sources.remove(Stationary.RING4)
    stationary = random.choice(sources)
    predicated = random.random() < 0.35
    n_tiles = random.choice([1, 1, 2, 3])
    most = min(arch.max_tokens, arch.accumulator_rows // n_tiles)
    rows = random.choice([1, 2, 3, 4, 5, random.randint(6, 24), random.randint(1, most)])
    if predicated:
        rows = random.choice([0, 0, 1, min(rows, most), most])
    groups, k_tiles = random.choice([1, 1, 1, 2, 3]), random.choice([1, 1, 2, 3])
    span = (
        (groups * n_tiles * arch.width, arch.width)
        if stationary != Stationary.ROWS
        else (k_tiles * arch.depth, arch.depth)
    )
    return Shape(
        stationary=stationary,
        streamed=random.choice(list(Streamed)),
        rows=min(rows, most),
        k_tiles=k_tiles,
        n_tiles=n_tiles,
        groups=groups,
        existing=span[0] - random.choice([0, random.randrange(span[1]), random.randrange(span[0])]),
        predicated=predicated,
        gather=random.random() < (0.7 if predicated else 0.15),
        fetched=random.random() < 0.5,
        parameters=random.random() < 0.5,
        track_maximum=stationary != Stationary.ROWS and random.random() < 0.5,
        wait=random.choice([0, 0, 1 << random.randrange(isa.UNIT_COUNT), random.randrange(64)]),
        signal=random.choice([0, 1 << random.randrange(isa.UNIT_COUNT), random.randrange(64)]),
        expert=expert,
        extreme=random.random() < 0.3,
        last_wide=random.choice([None, random.randrange(k_tiles)]),
    )


class Builder:
    """Lays instructions out in one scratchpad."""

    def __init__(self, arch: ArchConfig, seed: int) -> None:
        self.arch = arch
        self.rng = np.random.default_rng(seed)
        self.next_word = 0

    def _draw(self, low: int, high: int, shape: tuple[int, ...], extreme: bool) -> np.ndarray:
        if extreme:
            return self.rng.choice(np.array([low, high, low + 1, 0]), shape, p=[0.5, 0.3, 0.1, 0.1])
        return self.rng.integers(low, high + 1, shape)

    def _allocate(self, words: int) -> int:
        base = self.next_word
        self.next_word += words
        if self.next_word > self.arch.activation_words:
            raise MemoryError(f"{self.next_word} scratchpad words")
        return base

    def build(self, s: Shape) -> Matmul:
        """Draw the operands of ``s`` and compute everything the unit must do."""
        arch, stride_pad = self.arch, random.randrange(3)
        depth, width = arch.depth, arch.width
        columns, depth_total = s.groups * s.n_tiles * width, s.k_tiles * depth
        ranges = {
            Streamed.SIGNED8: (-128, 127),
            Streamed.UNSIGNED8: (0, 255),
            Streamed.SIGNED16: (-32768, 32767),
        }
        a = self._draw(*ranges[s.streamed], (s.rows, depth_total), s.extreme)
        last_wide = s.k_tiles - 1 if s.last_wide is None else s.last_wide
        if s.streamed == Streamed.SIGNED16:
            a[:, (last_wide + 1) * depth :] &= 255
        most = 7 if s.stationary == Stationary.RING4 else 127
        w = self._draw(-most - 1, most, (depth_total, columns), s.extreme)
        if s.fill is not None:
            a[:], w[:] = s.fill
        if s.stationary == Stationary.ROWS:
            a[:, s.existing :] = 0
        op = Matmul(raw=0, wait=s.wait, signal=s.signal, rows=s.rows)
        values: dict[str, int] = {
            name: int(getattr(s, name))
            for name in "wait signal stationary streamed predicated gather parameters"
            " track_maximum k_tiles n_tiles groups".split()
        }
        values["expert"] = s.expert
        values["last_wide"] = last_wide
        values["rows"] = s.rows if not s.predicated else random.randrange(4096)
        values["stationary_rows"] = s.existing

        if s.predicated or s.gather:
            tokens = sorted(random.sample(range(arch.max_tokens), s.rows))
            extra = [] if s.predicated else [0] * random.randrange(arch.max_tokens - s.rows + 1)
            op.queue = (s.expert, tokens + extra)
        index = tokens if s.gather else list(range(s.rows))
        self._place_streamed(s, a, index, s.k_tiles + stride_pad, op, values)
        if s.stationary not in FROM_RING:
            self._place_stationary(s, w, columns, op, values)
            op.attention = True
        self._place_ring(s, w, op, values)
        if not s.rows:
            op.operand_addresses, op.stream_addresses = [], []
        else:
            self._expect(s, a, w, op)
        op.raw = int.from_bytes(isa.encode(isa.Opcode.MATMUL, **values), "little")
        return op

    def _place_streamed(
        self,
        s: Shape,
        a: np.ndarray,
        index: list[int],
        stride: int,
        op: Matmul,
        values: dict[str, int],
    ) -> None:
        depth = self.arch.depth
        span = (max(index, default=0)) * stride + s.k_tiles
        planes, wide_tiles = [a & 255], 0
        if s.streamed == Streamed.SIGNED16:
            planes, wide_tiles = [a >> 8 & 255, a & 255], values["last_wide"] + 1
        base = self._allocate(span * len(planes))
        values |= {"stream_base": base, "stream_stride": stride, "plane_stride": span}
        if len(planes) == 1:
            values["plane_stride"] = random.randrange(1 << 20)
        for p, plane in enumerate(planes):
            for r, i in enumerate(index):
                for k in range(wide_tiles if p < len(planes) - 1 else s.k_tiles):
                    word = plane[r, k * depth : (k + 1) * depth].astype(np.uint8)
                    op.memory[base + p * span + i * stride + k] = word.tobytes()
        op.stream_addresses = [
            base + p * span + i * stride + k
            for _ in range(s.groups * s.n_tiles)
            for k in range(s.k_tiles)
            for p in range(0 if k < wide_tiles else len(planes) - 1, len(planes))
            for i in index
        ]

    def _place_stationary(
        self, s: Shape, w: np.ndarray, columns: int, op: Matmul, values: dict[str, int]
    ) -> None:
        depth, width = self.arch.depth, self.arch.width
        parts, byte = width // depth, w.astype(np.int8)
        tiles = [(n, k) for n in range(s.groups * s.n_tiles) for k in range(s.k_tiles)]
        if s.stationary == Stationary.COLUMNS:
            stride = s.k_tiles + random.randrange(3)
            base = self._allocate(stride * s.existing)
            for column in range(s.existing):
                for k in range(s.k_tiles):
                    word = byte[k * depth : (k + 1) * depth, column]
                    op.memory[base + column * stride + k] = word.tobytes()
            op.operand_addresses = [
                None if c is None else base + c * stride + k
                for n, k in tiles
                for c in range(n * width, min((n + 1) * width, s.existing)) or (None,)
            ]
        else:
            stride = columns // depth + random.randrange(3)
            base = self._allocate(stride * s.existing)
            for row in range(s.existing):
                for j in range(columns // depth):
                    word = byte[row, j * depth : (j + 1) * depth]
                    op.memory[base + row * stride + j] = word.tobytes()
            op.operand_addresses = [
                None if row is None else base + row * stride + n * parts + part
                for n, k in tiles
                for row in range(k * depth, min((k + 1) * depth, s.existing)) or (None,)
                for part in range(1 if row is None else parts)
            ]
        values |= {"stationary_base": base, "stationary_stride": stride}

    def _place_ring(self, s: Shape, w: np.ndarray, op: Matmul, values: dict[str, int]) -> None:
        arch = self.arch
        depth, width, size = arch.depth, arch.width, arch.ring_read_bytes
        for n in range(s.groups * s.n_tiles):
            if s.parameters:
                block = self.rng.bytes(size * arch.parameter_ring_words)
                for i in range(0, len(block), size):
                    op.ring.append(("parameter", block[i : i + size]))
            if s.stationary not in FROM_RING:
                continue
            for k in range(s.k_tiles):
                tile = w[k * depth : (k + 1) * depth, n * width : (n + 1) * width]
                block = tile.astype(np.int8).tobytes()
                if s.stationary == Stationary.RING4:
                    words = [block[i : i + size] for i in range(0, len(block), size)]
                    pairs = zip(words[::2], words[1::2], strict=True)
                    block = bytes(
                        low & 15 | (high & 15) << 4
                        for pair in pairs
                        for low, high in zip(*pair, strict=True)
                    )
                op.ring += [("tile", block[i : i + size]) for i in range(0, len(block), size)]
                op.ring_tiles += 1
        values["ring_words"] = len(op.ring)
        if s.predicated and op.ring:
            op.fetched = bool(s.rows) or s.fetched
            if not s.rows:
                op.ring_tiles = 0
                op.ring = [("dropped", word) for _, word in op.ring] if s.fetched else []

    def _expect(self, s: Shape, a: np.ndarray, w: np.ndarray, op: Matmul) -> None:
        width = self.arch.width
        product = a.astype(np.int64) @ w.astype(np.int64)
        for g in range(s.groups):
            tiles = range(g * s.n_tiles, (g + 1) * s.n_tiles)
            sums = np.concatenate([product[:, n * width : (n + 1) * width] for n in tiles])
            column = np.array([[n * width + c for c in range(width)] for n in tiles])
            counted = column < s.existing
            maxima = None
            if s.track_maximum:
                stacked = sums.reshape(s.n_tiles, s.rows, width)
                masked = np.where(counted[:, None, :], stacked, LOWEST)
                maxima = masked.max(axis=(0, 2))
            valid = counted if s.stationary == Stationary.COLUMNS else np.ones_like(counted)
            op.groups.append(Group(sums, np.repeat(valid, s.rows, axis=0), maxima, s))
