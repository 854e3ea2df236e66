"""Runs an integer graph by the C library: the codes of :class:`moesaic.spec.execute.Executor`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moesaic.host.cpu.constants import Constants
from moesaic.host.cpu.library import Pool, kernels
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.formats import ADDEND_BITS, INT8_LARGEST, INT16_LARGEST, RESIDUAL_BITS
from moesaic.spec.intgraph import (
    InputCodes,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntMoe,
    IntRenorm,
)

CHUNK_FRAMES = 16
"""Frames that are computed at once: enough tokens for every expert, and few enough for caches."""
Layer = Callable[["_Rows"], int | None]


class _Rows:
    """What a chunk's layers work on: rows of the stream, and what LayerNorm last made of them.

    Each is int16 [frames * tokens, channels] with a code behind it, which the library reads.
    """

    def __init__(self, frames: int, tokens: int, channels: int) -> None:
        self.frames, self.count = frames, frames * tokens
        size = self.count * channels
        self._arrays = [np.zeros(size + 1, np.int16) for _ in range(3)]
        self.flat = self._arrays[0][:size]
        self.stream, self.narrow, self.wide = (part.ctypes.data for part in self._arrays)

    def form(self, wide: bool) -> int:
        """Address of the normalised rows: of 16 bits, or of 8."""
        return self.wide if wide else self.narrow


class NativeExecutor:
    """An integer graph made ready for one level of the library's instructions.

    Parameters
    ----------
    graph
        The task to run.
    level
        One of :func:`moesaic.host.cpu.library.levels`.
    pool
        Threads that compute together; the calling one alone without it.

    Raises
    ------
    OutOfRange
        Sums of products may leave 32 bits.
    """

    def __init__(self, graph: IntGraph, level: str, pool: Pool | None = None) -> None:
        self.graph, self._pool = graph, pool or Pool(1)
        self._kernels, self._constants = kernels(level), Constants()
        self._layers = [self._layer(layer) for layer in graph.layers]
        self._norms = [self._constants.norm(layer.norm) for layer in graph.layers]
        self._heads = [
            (
                self._constants.norm(head.norm),
                self._constants.bits(head.linear, RESIDUAL_BITS, _largest(head.wide)),
            )
            for head in graph.heads
        ]
        if isinstance(graph.embed, IntEmbed):
            self._embed = self._constants.bits(graph.embed.linear, ADDEND_BITS)

    @property
    def level(self) -> str:
        """Of the library's instructions."""
        return self._kernels.level

    def run(self, patches: InputCodes) -> NDArray[np.int16]:
        """Run input codes [frames, patches, inputs] to int16 codes [frames, codes], those of
        all heads one behind the other.

        Raises
        ------
        MemoryError
            There is not enough.
        """
        result = np.empty((len(patches), self.graph.codes), np.int16)
        for start in range(0, len(patches), CHUNK_FRAMES):
            part = slice(start, start + CHUNK_FRAMES)
            with self._pool.lock:
                result[part] = self._chunk(patches[part])
        return result

    def _chunk(self, patches: InputCodes) -> NDArray[np.int16]:
        graph, call = self.graph, self._kernels
        rows = _Rows(len(patches), graph.tokens, graph.channels)
        self._begin(patches, rows)
        codes = [np.empty(0, np.int16)] * len(graph.heads)
        for depth in range(len(graph.layers) + 1):
            for number, head in enumerate(graph.heads):
                if head.depth == depth:
                    codes[number] = self._head(number, rows)
            if depth == len(graph.layers):
                break
            if not graph.layers[depth].parallel:
                norm = ctypes.addressof(self._norms[depth])
                call.norm(self._pool.address, norm, rows.stream, rows.count, rows.narrow, rows.wide)
            if self._layers[depth](rows):
                raise MemoryError("out of memory")
        return np.concatenate(codes, axis=1)

    def _begin(self, patches: InputCodes, rows: _Rows) -> None:
        """The first residual stream."""
        embed = self.graph.embed
        shape = (len(patches), self.graph.tokens, self.graph.channels)
        if not isinstance(embed, IntEmbed):
            rows.flat.reshape(shape)[...] = patches
            return
        rows.flat.reshape(shape)[...] = embed.initial
        _, count, inputs = patches.shape
        given = np.zeros(patches.size + 1, np.int16)
        given[:-1] = patches.ravel()
        for frame in range(len(patches)):
            first = frame * self.graph.tokens + embed.first_row
            self._kernels.add(
                self._pool.address,
                ctypes.addressof(self._embed),
                given.ctypes.data + 2 * frame * count * inputs,
                count,
                rows.stream + 2 * first * self.graph.channels,
            )

    def _head(self, number: int, rows: _Rows) -> NDArray[np.int16]:
        """Codes [frames, codes] of one head."""
        graph, head = self.graph, self.graph.heads[number]
        norm, linear = self._heads[number]
        count = rows.frames * head.rows
        shape = (rows.frames, graph.tokens, graph.channels)
        read = rows.flat.reshape(shape)[:, head.first_row :][:, : head.rows]
        stream = np.ascontiguousarray(read)
        mine = _Rows(rows.frames, head.rows, graph.channels)
        codes = np.empty((rows.frames, head.codes), np.int16)
        self._kernels.norm(
            self._pool.address,
            ctypes.addressof(norm),
            stream.ctypes.data,
            count,
            mine.narrow,
            mine.wide,
        )
        self._kernels.codes(
            self._pool.address,
            ctypes.addressof(linear),
            mine.form(head.wide),
            count,
            codes.ctypes.data,
        )
        return codes

    def _layer(self, layer: IntAttention | IntDense | IntMoe | IntRenorm) -> Layer:
        """What a layer does with a chunk's rows once they are normalised; its result is 0, 1
        without memory, or None."""
        call, make, pool = self._kernels, self._constants, self._pool
        match layer:
            case IntAttention():
                attention = make.attention(layer, self.graph.tokens)
                return lambda rows: call.attention(
                    pool.address,
                    ctypes.addressof(attention),
                    rows.form(layer.wide),
                    rows.frames,
                    rows.stream,
                )
            case IntDense():
                mlp = make.mlp(layer.mlp, _largest(layer.wide))

                def dense(rows: _Rows) -> int:
                    index, count = None, rows.count
                    if layer.tokens is not None:
                        starts = np.arange(rows.frames)[:, None] * self.graph.tokens
                        index = (starts + layer.tokens).astype(np.int32).ravel()
                        count = index.size
                    return int(
                        call.dense(
                            pool.address,
                            ctypes.addressof(mlp),
                            rows.form(layer.wide),
                            None if index is None else index.ctypes.data,
                            count,
                            rows.stream,
                        )
                    )

                return dense
            case IntMoe():
                moe = make.moe(layer)
                return lambda rows: call.moe(
                    pool.address,
                    ctypes.addressof(moe),
                    rows.wide,
                    rows.form(layer.wide),
                    rows.count,
                    rows.stream,
                )
            case IntRenorm():
                linears = [make.bits(part, ADDEND_BITS, INT16_LARGEST) for part in layer.linears]

                def renorm(rows: _Rows) -> None:
                    rows.flat[:] = 0
                    for linear in linears:
                        address = ctypes.addressof(linear)
                        call.add(pool.address, address, rows.wide, rows.count, rows.stream)

                return renorm
            case _:
                unreachable(layer)


def _largest(wide: bool) -> int:
    """Largest magnitude in normalised rows of 16 bits, or of 8."""
    return INT16_LARGEST if wide else INT8_LARGEST
