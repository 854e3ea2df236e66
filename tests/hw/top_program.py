"""Small frames for the whole accelerator: program, memory images and expected results.

Two linear layers written instruction by instruction, so that the top level can be tested without
a compiler. Expected results come from the integer semantics.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from moesaic.spec import isa, registers, semantics
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Unit

PAGE = registers.WINDOW_ALIGNMENT


@dataclass
class Frame:
    """What memory must hold for a frame, where, and what it must hold afterwards.

    ``memory`` maps addresses to bytes; ``windows`` register prefixes to (base, size).
    """

    memory: dict[int, bytes]
    windows: dict[str, tuple[int, int]]
    expected: dict[int, bytes]
    instructions: int
    macs: int
    ring_words: int
    program: list[bytes] = field(repr=False, default_factory=list)


@dataclass
class Layer:
    """A linear layer: weights [outputs, inputs] int8 and one parameter entry per output."""

    weights: NDArray[np.int8]
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]

    @classmethod
    def draw(cls, rng: np.random.Generator, outputs: int, inputs: int, bits: int) -> Layer:
        """Random layer whose results fill ``bits`` bits and sometimes saturate."""
        multiplier = rng.integers(1 << 14, 1 << 16, outputs)
        # Sums have about sqrt(inputs) * 73**2 as their size.
        size = 73 * 73 * inputs**0.5 * (1 << 15) / (1 << bits - 2)
        shift = np.full(outputs, max(0, round(np.log2(size)))) + rng.integers(-1, 2, outputs)
        return cls(
            rng.integers(-128, 128, (outputs, inputs), dtype=np.int8),
            rng.integers(-(1 << 16), 1 << 16, outputs),
            multiplier,
            np.clip(shift, 0, 62),
        )

    def results(self, x: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
        """[rows, inputs] to [rows, outputs], requantised to ``bits`` bits."""
        sums = semantics.matmul(torch.from_numpy(x), torch.from_numpy(self.weights))
        sums = sums + torch.from_numpy(self.bias)
        scale = torch.from_numpy(self.multiplier), torch.from_numpy(self.shift)
        return semantics.requantise(sums, *scale, bits).numpy()

    def ring_image(self, arch: ArchConfig) -> bytes:
        """Parameter blocks and tiles in the order of one MATMUL with ``parameters``."""
        outputs, inputs = self.weights.shape
        k_tiles, n_tiles = -(-inputs // arch.depth), -(-outputs // arch.width)
        tiles = np.zeros((k_tiles * arch.depth, n_tiles * arch.width), np.int8)
        tiles[:inputs, :outputs] = self.weights.T
        image = b""
        block_bytes = arch.parameter_ring_words * arch.ring_read_bytes
        for n in range(n_tiles):
            entries = b""
            for column in range(n * arch.width, (n + 1) * arch.width):
                if column < outputs:
                    entries += int(self.bias[column]).to_bytes(4, "little", signed=True)
                    entries += int(self.multiplier[column]).to_bytes(2, "little")
                    entries += bytes([int(self.shift[column]), 0])
                else:
                    entries += bytes(8)
            image += entries.ljust(block_bytes, b"\0")
            columns = slice(n * arch.width, (n + 1) * arch.width)
            for k in range(k_tiles):
                image += tiles[k * arch.depth : (k + 1) * arch.depth, columns].tobytes()
        return image


def _words(count: int, size: int) -> int:
    return -(-count // size)


def _groups(arch: ArchConfig, rows: int, columns: int) -> dict[str, int]:
    """As many column tiles per accumulator bank as fit and divide their number."""
    tiles = _words(columns, arch.width)
    fitting = [
        n for n in range(1, tiles + 1) if tiles % n == 0 and n * rows <= arch.accumulator_rows
    ]
    return {"n_tiles": fitting[-1], "groups": tiles // fitting[-1]}


def _padded(rows: NDArray[np.int8], size: int) -> bytes:
    """Each row as whole activation words of ``size`` bytes."""
    wide = np.zeros((len(rows), _words(rows.shape[1], size) * size), np.int8)
    wide[:, : rows.shape[1]] = rows
    return wide.tobytes()


def two_layers(arch: ArchConfig, sizes: tuple[int, int, int, int], seed: int = 1) -> Frame:
    """``rows`` tokens through layers ``inputs -> hidden -> outputs`` to int16 results.

    LOAD, STREAM, MATMUL, DRAIN INT8, MATMUL, DRAIN OUTPUT, STORE, END. The input is loaded in
    two halves, the result stored in two halves, to have more than one transfer under way.
    """
    rows, inputs, hidden, outputs = sizes
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (rows, inputs), dtype=np.int8)
    first = Layer.draw(rng, hidden, inputs, 8)
    second = Layer.draw(rng, outputs, hidden, 16)
    middle = first.results(x.astype(np.int64), 8)
    result = second.results(middle, 16)

    in_words, hidden_words = _words(inputs, arch.depth), _words(hidden, arch.depth)
    half = rows // 2
    hidden_base = rows * in_words
    images = [first.ring_image(arch), second.ring_image(arch)]
    ring_words = [len(image) // arch.ring_read_bytes for image in images]
    order = _output_order(arch, result)
    chunks = len(order) // (2 * arch.lanes)
    stored = chunks // 2
    image = b"".join(images)

    def linear(layer: Layer, stationary_words: int, **fields: int) -> bytes:
        wide, deep = layer.weights.shape
        return isa.encode(
            Opcode.MATMUL,
            parameters=1,
            rows=rows,
            k_tiles=_words(deep, arch.depth),
            **_groups(arch, rows, wide),
            ring_words=stationary_words,
            **fields,
        )

    def drain(kind: isa.Drain, columns: int, **fields: int) -> bytes:
        loops = _groups(arch, rows, columns)
        return isa.encode(Opcode.DRAIN, kind=kind, rows=rows, columns=columns, **loops, **fields)

    load = {"window": isa.Window.INPUT, "space": isa.Space.ACTIVATION}
    program = [
        isa.encode(Opcode.LOAD, **load, words=half * in_words) if half else b"",
        isa.encode(
            Opcode.LOAD,
            **load,
            offset=half * in_words * arch.depth,
            words=(rows - half) * in_words,
            base=half * in_words,
            signal=1 << Unit.MATRIX,
        ),
        isa.encode(Opcode.STREAM, words=sum(ring_words)),
        linear(first, ring_words[0], wait=1 << Unit.LOAD, stream_stride=in_words),
        drain(
            isa.Drain.INT8,
            hidden,
            base=hidden_base,
            stride=hidden_words,
            signal=1 << Unit.MATRIX,
        ),
        linear(
            second,
            ring_words[1],
            wait=1 << Unit.VECTOR,
            stream_base=hidden_base,
            stream_stride=hidden_words,
        ),
        drain(isa.Drain.OUTPUT, outputs),
        isa.encode(Opcode.STORE, words=stored) if stored else b"",
        isa.encode(Opcode.STORE, offset=stored * 2 * arch.lanes, words=chunks - stored),
        isa.encode(Opcode.END),
    ]
    program = [instruction for instruction in program if instruction]
    macs = rows * (inputs * hidden + hidden * outputs)
    return place(arch, program, image, _padded(x, arch.depth), order, macs)


def _output_order(arch: ArchConfig, result: NDArray[np.int64]) -> bytes:
    """Int16 results in drain order: n-tile, row, chunk; chunks without valid columns left out.

    Columns of the last chunk that do not exist have zero weights and parameters: zero results.
    """
    rows, outputs = result.shape
    wide = np.zeros((rows, _words(outputs, arch.width) * arch.width), "<i2")
    wide[:, :outputs] = result
    parts = []
    for n in range(0, outputs, arch.width):
        columns = min(outputs - n, arch.width)
        valid = _words(columns, arch.lanes) * arch.lanes
        parts.append(wide[:, n : n + valid].tobytes())
    return b"".join(parts)


def place(
    arch: ArchConfig,
    program: list[bytes],
    image: bytes,
    inputs: bytes,
    expected: bytes,
    macs: int = 0,
) -> Frame:
    """Give every part of a frame a place in memory, pages apart, each between guard bytes."""
    memory: dict[int, bytes] = {}
    windows: dict[str, tuple[int, int]] = {}
    address = 4 * PAGE

    def put(window: str, contents: bytes) -> int:
        nonlocal address
        base = address
        memory[base] = contents
        windows[window] = (base, len(contents))
        address += _words(len(contents) + 1, PAGE) * PAGE + PAGE
        return base

    put("PROGRAM", b"".join(program))
    put("INPUT", inputs)
    lines = np.frombuffer(image, np.uint8).reshape(-1, arch.weight_ports, arch.weight_port_bytes)
    for port in range(arch.weight_ports):
        put(f"WEIGHT{port}", lines[:, port].tobytes())
    guard = random.Random(len(image)).randbytes(len(expected) + 2 * PAGE)
    address += PAGE
    base = address
    windows["OUTPUT"] = (base, len(expected))
    memory[base - PAGE] = guard
    after = guard[:PAGE] + expected + guard[PAGE + len(expected) :]
    return Frame(
        memory=memory,
        windows=windows,
        expected={base - PAGE: after},
        instructions=len(program),
        macs=macs,
        ring_words=len(image) // arch.ring_read_bytes,
        program=program,
    )
