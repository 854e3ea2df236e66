"""The weight image: what the ring delivers, in the order in which the matrix unit consumes it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.schedule.steps import Weights
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import PARAMETER_BYTES

Bytes = NDArray[np.uint8]


def parameter_blocks(weights: Weights, arch: ArchConfig) -> Bytes:
    """[n_tiles, block bytes]: an entry per column, zeros for padding columns and ring padding."""
    columns = np.array(weights.columns)
    real = columns >= 0
    linear = weights.linear
    entries = np.zeros(len(columns), layout.PARAMETER_ENTRY)
    entries["bias"][real] = linear.bias[columns[real]]
    entries["multiplier"][real] = linear.multiplier[columns[real]]
    entries["shift"][real] = linear.shift[columns[real]]
    raw = entries.view(np.uint8).reshape(-1, PARAMETER_BYTES * arch.width)
    padding = arch.parameter_ring_words * arch.ring_read_bytes - raw.shape[1]
    return np.pad(raw, ((0, 0), (0, padding)))


def tiles(weights: Weights, arch: ArchConfig) -> Bytes:
    """[n_tiles, k_tiles * depth * width]: each tile is depth rows of width bytes."""
    rows, columns = np.array(weights.rows), np.array(weights.columns)
    matrix = weights.linear.weight.T[np.maximum(rows, 0)][:, np.maximum(columns, 0)]
    matrix = np.where((rows >= 0)[:, None] & (columns >= 0)[None, :], matrix, 0).astype(np.int8)
    n_tiles = len(columns) // arch.width
    split = matrix.reshape(len(rows), n_tiles, arch.width).transpose(1, 0, 2)
    return np.ascontiguousarray(split).view(np.uint8).reshape(n_tiles, -1)


def halved(codes: Bytes, arch: ArchConfig) -> Bytes:
    """Tiles of four-bit codes [n_tiles, bytes] as the ring has them [n_tiles, bytes / 2].

    Of every two words of codes one is made: the first in the low, the second in the high halves of
    its bytes.
    """
    pairs = codes.reshape(len(codes), -1, 2, arch.ring_read_bytes)
    stored: Bytes = pairs[:, :, 0] & np.uint8(0xF) | pairs[:, :, 1] << np.uint8(4)
    return stored.reshape(len(codes), -1)


def segment(weights: Weights, arch: ArchConfig) -> bytes:
    """Ring words of one MATMUL: for every n-tile its parameter block, then its k-tiles."""
    codes = tiles(weights, arch)
    stored = halved(codes, arch) if weights.linear.few_bits else codes
    return np.concatenate([parameter_blocks(weights, arch), stored], 1).tobytes()


class WeightImage:
    """Collects segments; equal segments, of whatever task, are stored once.

    A segment's place is its first ring word. Segments that are added one after the other lie one
    behind the other, so that one STREAM can fetch many.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._words = 0

    def add(self, weights: Weights) -> int:
        """Store a segment and return its first ring word."""
        raw = segment(weights, self.arch)
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self._places[key] = self._words
            self._parts.append(raw)
            self._words += layout.words(len(raw), self.arch.ring_read_bytes)
        return self._places[key]

    @property
    def words(self) -> int:
        return self._words

    def tobytes(self) -> bytes:
        """The whole image in ring-word order (before it is split over the ports)."""
        return b"".join(self._parts)
