"""Functional model of the instruction set: whole instructions at a time, no cycles.

It executes encoded programs on numpy memories and so tests compiler and instruction set without
any gateware. Units are run in random order, bound by tokens and queues only: a program that lacks
a token gives wrong results under some order.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from moesaic.spec import isa, layout, semantics, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS
from moesaic.spec.formats import ROTARY_BITS
from moesaic.spec.isa import (
    FROM_RING,
    Drain,
    Instruction,
    Opcode,
    Stationary,
    Streamed,
    Unit,
)

IntArray = NDArray[np.int64]


class Deadlock(Exception):
    """No unit can go on."""


@dataclass
class State:
    """Memories and queues of the accelerator."""

    activation: NDArray[np.int8]
    residual: NDArray[np.int16]
    tables: IntArray
    ring: deque[bytes] = field(default_factory=deque)
    fetched: deque[bool] = field(default_factory=deque)
    blocks: deque[bytes] = field(default_factory=deque)
    groups: deque[IntArray] = field(default_factory=deque)
    row_scales: deque[torch.Tensor] = field(default_factory=deque)
    logits: deque[IntArray] = field(default_factory=deque)
    outputs: deque[bytes] = field(default_factory=deque)
    queues: list[list[tuple[int, int]]] = field(default_factory=list)
    sequence: int = 0


class FunctionalModel:
    """Executes one program.

    Parameters
    ----------
    arch
        Sizes.
    image
        Weight image in ring-word order.
    constants, inputs
        Contents of the CONSTANT and INPUT windows.
    seed
        Of the order in which units take turns.
    """

    def __init__(
        self, arch: ArchConfig, image: bytes, constants: bytes, inputs: bytes, seed: int = 0
    ) -> None:
        self.arch, self.image = arch, image
        self.windows: dict[isa.Window, bytes | bytearray]
        self.windows = {isa.Window.CONSTANT: constants, isa.Window.INPUT: inputs}
        rng = np.random.default_rng(seed)
        # Memories start with garbage: nothing may depend on what was there.
        self.state = State(
            rng.integers(-128, 128, arch.activation_bytes).astype(np.int8),
            rng.integers(-32768, 32768, arch.residual_bytes // 2).astype(np.int16),
            rng.integers(-1000, 1000, (tables.ACTIVATION_TABLES, tables.ACTIVATION_ENTRIES)),
        )
        self.order = random.Random(seed)
        self.weight_bytes = 0

    def run(self, program: bytes) -> bytes:
        """Run ``program`` to END and return what it stored.

        Raises
        ------
        Deadlock
            Tokens or queues leave no unit able to go on.
        """
        size = isa.INSTRUCTION_BYTES
        instructions = [isa.decode(program[i : i + size]) for i in range(0, len(program), size)]
        assert instructions[-1].opcode is Opcode.END
        queues: dict[Unit, deque[Instruction]] = {unit: deque() for unit in Unit}
        for instruction in instructions[:-1]:
            unit = isa.UNIT_OF[instruction.opcode]
            assert unit is not None
            queues[unit].append(instruction)
        tokens = {(a, b): 0 for a in Unit for b in Unit}
        # Windows of the output ports, as long as what was written.
        self.ports = [bytearray() for _ in range(self.arch.output_ports)]
        self.windows[isa.Window.OUTPUT] = self.ports[0]
        self.pieces: dict[int, int] = {}  # bytes of outputs, by their place over all ports
        scratch = [i.values["offset"] for i in instructions if i.values.get("single")]
        while any(queues.values()):
            ready = [u for u in Unit if queues[u] and self._ready(u, queues[u][0], tokens)]
            if not ready:
                heads = "; ".join(f"{u.name}: {q[0]}" for u, q in queues.items() if q)
                raise Deadlock(heads)
            unit = self.order.choice(ready)
            instruction = queues[unit].popleft()
            for other in Unit:
                if instruction.values["wait"] >> other & 1:
                    tokens[other, unit] -= 1
            getattr(self, "_" + instruction.opcode.name.lower())(instruction.values)
            for other in Unit:
                if instruction.values["signal"] >> other & 1:
                    tokens[unit, other] += 1
        stored = 0
        for offset, size in sorted(self.pieces.items()):
            assert offset == stored  # one behind the other, without gaps
            stored += size
        part = stored // len(self.ports)
        assert all(offset >= part for offset in scratch), "scratch lies in an output"
        return layout.join_outputs(self.arch, [bytes(port[:part]) for port in self.ports])

    def _count(self, values: dict[str, int]) -> int:
        if values["predicated"]:
            return len(self.state.queues[values["expert"]])
        return values["rows"]

    def _ready(
        self, unit: Unit, instruction: Instruction, tokens: dict[tuple[Unit, Unit], int]
    ) -> bool:
        values, state = instruction.values, self.state
        if any(values["wait"] >> u & 1 and not tokens[u, unit] for u in Unit):
            return False
        match instruction.opcode:
            case Opcode.STREAM:
                known = not values["predicated"] or values["speculate"]
                return bool(known) or state.sequence == values["sequence"]
            case Opcode.MATMUL if values["stationary"] in FROM_RING:
                if values["predicated"]:
                    if not state.fetched:
                        return False
                    if not state.fetched[0]:
                        return True
                return len(state.ring) >= values["ring_words"]
            case Opcode.DRAIN:
                skipped = values["predicated"] and not self._count(values)
                return bool(skipped) or len(state.groups) >= values["groups"]
            case Opcode.ROUTE:
                return sum(map(len, state.logits)) >= values["rows"] + values["corrected"]
            case Opcode.STORE:
                return len(state.outputs) >= values["words"]
        return True

    # Units, one instruction at a time.

    def _stream(self, values: dict[str, int]) -> None:
        state, size = self.state, self.arch.ring_read_bytes
        if values["predicated"]:
            known = state.sequence == values["sequence"]
            fetch = not known or bool(state.queues[values["expert"]])
            state.fetched.append(fetch)
            if not fetch:
                return
        for word in range(values["offset"], values["offset"] + values["words"]):
            state.ring.append(self.image[word * size : (word + 1) * size])
        self.weight_bytes += values["words"] * size

    def _words(self, base: int, count: int) -> IntArray:
        """``count`` activation words as int8 rows."""
        depth = self.arch.depth
        return (
            self.state.activation[base * depth : (base + count) * depth]
            .reshape(count, depth)
            .astype(np.int64)
        )

    def _matmul(self, values: dict[str, int]) -> None:
        arch, state = self.arch, self.state
        rows, ring = self._count(values), values["stationary"] in FROM_RING
        if values["predicated"] and ring and not state.fetched.popleft():
            assert rows == 0
            return
        ring_words = [state.ring.popleft() for _ in range(values["ring_words"])]
        if rows == 0:
            return
        index = list(range(rows))
        if values["gather"]:
            index = [token for token, _ in state.queues[values["expert"]]]
        streamed = self._streamed(values, index)
        parts = deque(ring_words)
        for group in range(values["groups"]):
            tiles = []
            for n_tile in range(values["n_tiles"]):
                n = group * values["n_tiles"] + n_tile
                if values["parameters"]:
                    block = b"".join(parts.popleft() for _ in range(arch.parameter_ring_words))
                    state.blocks.append(block)
                total = np.zeros((rows, arch.width), np.int64)
                for k in range(values["k_tiles"]):
                    if ring:
                        words = arch.segment_tile_words(values["stationary"])
                        raw = b"".join(parts.popleft() for _ in range(words))
                        weights = np.frombuffer(raw, np.int8).astype(np.int64)
                        if values["stationary"] == Stationary.RING4:
                            halves = weights.reshape(words, 1, -1) >> np.array([[0], [4]])
                            weights = (halves + 8 & 15) - 8
                        tile = weights.reshape(arch.depth, arch.width)
                    else:
                        tile = self._stationary(values, n, k)
                    total += streamed[k] @ tile
                tiles.append(total)
            state.groups.append(np.concatenate(tiles, axis=1))
        assert not parts

    def _streamed(self, values: dict[str, int], index: list[int]) -> list[IntArray]:
        def plane(base: int) -> list[IntArray]:
            rows = [
                self._words(base + i * values["stream_stride"], values["k_tiles"]) for i in index
            ]
            return [np.stack([row[k] for row in rows]) for k in range(values["k_tiles"])]

        match values["streamed"]:
            case Streamed.SIGNED8:
                return plane(values["stream_base"])
            case Streamed.UNSIGNED8:
                return [part & 255 for part in plane(values["stream_base"])]
        high = plane(values["stream_base"])
        low = plane(values["stream_base"] + values["plane_stride"])
        return [
            (h * 256 if k <= values["last_wide"] else 0) + (part & 255)
            for k, (h, part) in enumerate(zip(high, low, strict=True))
        ]

    def _stationary(self, values: dict[str, int], n: int, k: int) -> IntArray:
        arch = self.arch
        base, stride, limit = (values[f"stationary_{x}"] for x in ("base", "stride", "rows"))
        # What is not loaded keeps old values: garbage here.
        tile = np.full((arch.depth, arch.width), 77, np.int64)
        if values["stationary"] == Stationary.COLUMNS:
            for w in range(min(arch.width, limit - n * arch.width)):
                tile[:, w] = self._words(base + (n * arch.width + w) * stride + k, 1)[0]
        else:
            words = arch.width // arch.depth
            for d in range(min(arch.depth, limit - k * arch.depth)):
                word = base + (k * arch.depth + d) * stride + n * words
                row = self._words(word, min(words, arch.activation_words - word)).reshape(-1)
                tile[d, : len(row)] = row
        return tile

    def _drain(self, values: dict[str, int]) -> None:
        rows, kind = self._count(values), Drain(values["kind"])
        if values["predicated"] and not rows:
            return
        groups = [self.state.groups.popleft() for _ in range(values["groups"])]
        accumulated = torch.as_tensor(np.concatenate(groups, axis=1))
        assert accumulated.shape[0] == rows
        columns = min(
            layout.words(values["columns"], self.arch.lanes) * self.arch.lanes,
            accumulated.shape[1],
        )
        if kind is Drain.SOFTMAX:
            self._softmax(values, accumulated[:, : values["columns"]])
            return
        scale = (values["multiplier"], values["shift"])
        if kind is Drain.ATTENTION:
            multiplier, shift = semantics.attention_scale(self.state.row_scales.popleft(), *scale)
            bits = 16 if values["wide"] else 8
            value = semantics.requantise(accumulated, multiplier[:, None], shift[:, None], bits)
            self._write_rows(values, value[:, :columns])
            return
        value = self._requantise(accumulated, values, kind)[:, :columns]
        if kind is Drain.INT8:
            self._write_rows(values, self._rotate(value, values) if values["rotary"] else value)
        elif kind is Drain.ACTIVATION:
            self._write_rows(values, self._activate(value, values))
        elif kind is Drain.RESIDUAL:
            self._add_residual(values, value)
        elif kind is Drain.LOGITS:
            self.state.logits.append(value.numpy())
        elif kind is Drain.OUTPUT:
            self._output(value.numpy(), rows)
        else:
            assert_never(kind)

    def _activate(self, value: torch.Tensor, values: dict[str, int]) -> torch.Tensor:
        positive, negative = (
            torch.as_tensor(self.state.tables[values[name]]) for name in ("table", "negative_table")
        )
        multiplier: int | torch.Tensor = values["multiplier"]
        if values["paired"]:
            pairs = value.reshape(len(value), -1, 2, self.arch.lanes)
            multiplier = semantics.saturate(pairs[:, :, 0], 16).flatten(1)
            value = pairs[:, :, 1].flatten(1)
        fine = semantics.activation_fine(value, positive, negative, bool(values["linear"]))
        if values["wide"]:
            return semantics.hidden_wide(fine, multiplier, values["shift"])
        return semantics.hidden_code(fine, multiplier, values["shift"], values["offset"])

    def _rotate(self, value: torch.Tensor, values: dict[str, int]) -> torch.Tensor:
        """Rotated codes [rows, columns] of chunks that come in pairs."""
        lanes, words = self.arch.lanes, values["angle_words"]
        first, second = value.reshape(len(value), -1, 2, lanes).unbind(2)
        memory = torch.as_tensor(self.state.residual.astype(np.int64)).reshape(-1, lanes)
        at = values["angles"] + torch.arange(len(value))[:, None] * words
        at = at + 2 * torch.arange(first.shape[1]) % words
        cosine, sine = (semantics.angle(memory[at + which]) for which in (0, 1))
        turned = semantics.rotate(
            first, second, cosine, sine, values["shift"], bool(values["wide"])
        )
        return torch.stack(turned, 2).flatten(1)

    def _requantise(
        self, accumulated: torch.Tensor, values: dict[str, int], kind: Drain
    ) -> torch.Tensor:
        tiles = values["groups"] * values["n_tiles"]
        entry = np.dtype([("bias", "<i4"), ("m", "<u2"), ("s", "u1"), ("reserved", "u1")])
        raw = b"".join(self.state.blocks.popleft()[: 8 * self.arch.width] for _ in range(tiles))
        block = np.frombuffer(raw, entry)
        bias, m, s = (torch.as_tensor(block[x].astype(np.int64)) for x in ("bias", "m", "s"))
        narrow = 16 if values["wide"] else 8
        bits = narrow if kind is Drain.INT8 else DRAINS[kind].bits
        bits = ROTARY_BITS if values["rotary"] else bits
        return semantics.requantise(accumulated + bias, m, s, bits)

    def _softmax(self, values: dict[str, int], scores: torch.Tensor) -> None:
        probability, sums = semantics.softmax(scores, values["multiplier"], values["shift"])
        self.state.row_scales.append(sums)
        assert len(self.state.row_scales) <= 2
        pad = -probability.shape[1] % self.arch.depth
        padded = np.pad(probability.numpy(), ((0, 0), (0, pad)))
        self._write_activations(values, padded)

    def _targets(self, values: dict[str, int], count: int) -> list[int]:
        if values["scatter"]:
            return [token for token, _ in self.state.queues[values["expert"]]]
        return list(range(count))

    def _write_activations(self, values: dict[str, int], rows: IntArray) -> None:
        for row, target in zip(rows, self._targets(values, len(rows)), strict=True):
            start = (values["base"] + target * values["stride"]) * self.arch.depth
            self.state.activation[start : start + len(row)] = row.astype(np.uint8).view(np.int8)

    def _write_rows(self, values: dict[str, int], codes: torch.Tensor) -> None:
        rows = codes.numpy()
        if not values["wide"]:
            self._write_activations(values, rows)
            return
        low = {**values, "base": values["base"] + values["plane_stride"]}
        self._write_activations(values, rows >> 8)
        self._write_activations(low, rows & 255)

    def _add_residual(self, values: dict[str, int], addend: torch.Tensor) -> None:
        weights = [semantics.ONE_Q15] * len(addend)
        if values["scatter"]:
            weights = [weight for _, weight in self.state.queues[values["expert"]]]
        targets = self._targets(values, len(addend))
        for row, target, weight in zip(addend, targets, weights, strict=True):
            start = (values["base"] + target * values["stride"]) * self.arch.lanes
            part = slice(start, start + len(row))
            old = torch.as_tensor(self.state.residual[part].astype(np.int64))
            self.state.residual[part] = semantics.residual_add(old, row, weight).numpy()

    def _output(self, value: IntArray, rows: int) -> None:
        arch = self.arch
        for tile in range(0, value.shape[1], arch.width):
            for row in range(rows):
                codes = value[row, tile : tile + arch.width].astype("<i2")
                for chunk in range(0, len(codes), arch.lanes):
                    self.state.outputs.append(codes[chunk : chunk + arch.lanes].tobytes())

    def _norm(self, values: dict[str, int]) -> None:
        arch, channels = self.arch, values["channels"]
        for row in range(values["rows"]):
            start = (values["source_base"] + row * values["source_stride"]) * arch.lanes
            # All of the words go to memory; behind the channels the stream has zeros.
            count = values["words"] * arch.lanes if values["store"] else channels
            x = torch.as_tensor(self.state.residual[start : start + count].astype(np.int64))
            scale = (values["multiplier"], values["shift"])
            if values["plain"]:
                narrow, wide = semantics.plain_rows(x[None], channels, *scale)
            else:
                narrow, wide = semantics.layer_norm(x[None], channels, values["epsilon"], *scale)
            if values["store"]:
                chunks = wide[0].numpy().astype("<i2").reshape(-1, arch.lanes)
                self.state.outputs.extend(chunk.tobytes() for chunk in chunks)
                continue
            planes = [narrow, wide >> 8, wide & 255] if values["wide"] else [narrow]
            for plane, value in enumerate(planes):
                base = values["base"] + row * values["stride"] + plane * values["plane_stride"]
                target = slice(base * arch.depth, base * arch.depth + channels)
                self.state.activation[target] = value[0].numpy().astype(np.uint8).view(np.int8)

    def _logits(self, rows: int) -> IntArray:
        """Those of so many rows, which whole DRAINs have sent."""
        parts = [self.state.logits.popleft()]
        while sum(map(len, parts)) < rows:
            parts.append(self.state.logits.popleft())
        assert sum(map(len, parts)) == rows
        return np.concatenate(parts)

    def _route(self, values: dict[str, int]) -> None:
        corrections = None
        if values["corrected"]:
            (row,) = self.state.logits.popleft()
            corrections = torch.as_tensor(row[: values["experts"]])
        logits = torch.as_tensor(self._logits(values["rows"]))[:, : values["experts"]]
        chosen, weights = semantics.route(
            logits,
            values["top_k"],
            bool(values["renormalise"]),
            values["multiplier"],
            values["shift"],
            bool(values["sigmoid"]),
            corrections,
        )
        self.state.queues = [[] for _ in range(values["experts"])]
        for token, (experts, parts) in enumerate(zip(chosen, weights, strict=True)):
            for expert, weight in zip(experts.tolist(), parts.tolist(), strict=True):
                self.state.queues[expert].append((values["first_row"] + token, weight))
        self.state.sequence = values["sequence"]

    def _load(self, values: dict[str, int]) -> None:
        data, offset = self.windows[isa.Window(values["window"])], values["offset"]
        if values["space"] == isa.Space.RESIDUAL:
            start, count = values["base"] * self.arch.lanes, values["words"] * self.arch.lanes
            part = np.frombuffer(data, "<i2", count, offset)
            self.state.residual[start : start + count] = part
        elif values["space"] == isa.Space.TABLE:
            words = np.frombuffer(
                data, "<u4", values["words"] * self.arch.data_port_bytes // 4, offset
            )
            value = words[:: self.arch.data_port_bytes // 4].astype(np.int64) << 46 >> 46
            start = values["base"]
            self.state.tables.reshape(-1)[start : start + values["words"]] = value
        else:
            start, count = values["base"] * self.arch.depth, values["words"] * self.arch.depth
            part8 = np.frombuffer(data, np.int8, count, offset)
            self.state.activation[start : start + count] = part8

    def _store(self, values: dict[str, int]) -> None:
        data = b"".join(self.state.outputs.popleft() for _ in range(values["words"]))
        if values["single"]:
            self._write(0, values["offset"], data)
            return
        assert values["offset"] not in self.pieces
        self.pieces[values["offset"]] = len(data)
        ports = len(self.ports)
        parts = np.frombuffer(data, np.uint8).reshape(values["words"], ports, -1)
        for port in range(ports):
            self._write(port, values["offset"] // ports, parts[:, port].tobytes())

    def _write(self, port: int, offset: int, data: bytes) -> None:
        memory = self.ports[port]
        memory.extend(bytes([0xA5]) * (offset + len(data) - len(memory)))
        memory[offset : offset + len(data)] = data
