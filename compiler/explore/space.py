"""Which targets are searched: what a model needs and a part has leaves the rest to choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from moesaic.spec import isa, layout
from moesaic.spec.arch import (
    MAX_DEPTH,
    MAX_EXPERTS,
    MAX_MEMORY_BYTES,
    MAX_PRODUCTS,
    MAX_TOKENS,
    MIN_DEPTH,
    MIN_LANES,
    ArchConfig,
)
from moesaic.spec.intgraph import IntGraph, IntMoe
from moesaic.spec.isa import INSTRUCTION_BYTES
from moesaic.spec.memories import ram_kind
from moesaic.spec.parts import Part

RAM_BYTES = {"bram36": 4096, "ebr": 2048, "uram": 32768}
"""Of one block RAM or UltraRAM, parity left out: bounds the largest memory that is worth a try."""
_RING, _ACTIVATIONS = 1, 2
"""Bits of the parameter ``ultra``: what lies in UltraRAM."""
WIDEST = 1024
"""Columns of an array."""
MOST_ACCUMULATOR_ROWS = 1 << 14
MOST_WORDS = 1 << isa.width(isa.Opcode.LOAD, "base")
"""Of a scratchpad."""
RAM_WORDS = 512
"""Of a block RAM at its widest: a memory grows by so many."""


def power_above(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def _log2(power: int) -> int:
    """Rounded down where it is no power of two."""
    return power.bit_length() - 1


def _size(number: int) -> int:
    """Powers of two, and what is halfway between them: 1, 1, 2, 3, 4, 6, 8, ..."""
    return (2 + number % 2 << number // 2) // 2


def _number(size: int) -> int:
    """The largest number of a :func:`_size` that is not above ``size``."""
    return next(n for n in count() if _size(n + 1) > size)


@dataclass(frozen=True)
class Needs:
    """What all tasks of a model need at least."""

    tokens: int
    channels: int
    experts: int

    @classmethod
    def of(cls, graphs: Iterable[IntGraph]) -> Needs:
        graphs = list(graphs)
        experts = [
            len(layer.experts)
            for graph in graphs
            for layer in graph.layers
            if isinstance(layer, IntMoe)
        ]
        tokens = [
            max(g.tokens, *(head.rows for head in g.heads), g.gather.shape[0]) for g in graphs
        ]
        return cls(max(tokens), max(g.channels for g in graphs), max(experts, default=1))


class Space:
    """Parameters of a trial, and the target that they stand for.

    Every parameter is the logarithm of a size, or of how often it doubles (that of activations: in
    two steps) above the least that the model or another size asks for, but ``ultra`` says what lies
    in UltraRAM, on parts that have some; what would exceed a rule of :class:`ArchConfig` is cut to
    it. So every point is a valid target. Of what cannot matter, the
    least is taken: residual scratchpad, tokens and experts of the router. Ports are as wide as
    those of the part, bursts as long, and transfers as secure as its memory wants them; none
    snoops. Weights of four bits are no choice, for models are judged with eight.

    Attributes
    ----------
    ranges
        Parameter to its least and largest value.
    """

    def __init__(self, needs: Needs, part: Part) -> None:
        self.needs, self.part = needs, part
        products = part.capacity["dsp"] * (2 if self.may_pack else 1)
        self.products = min(MAX_PRODUCTS, max(products, MIN_DEPTH * MIN_DEPTH))
        ram = ram_kind(part.family)
        ultra = part.capacity.get("uram", 0)
        room = max(part.capacity[ram] * RAM_BYTES[ram], ultra * RAM_BYTES["uram"])
        self.most_bytes = min(MAX_MEMORY_BYTES, max(1 << 14, power_above(room + 1) // 2))
        depth = _log2(MIN_DEPTH)
        while depth < _log2(MAX_DEPTH) and 4 << 2 * depth <= self.products:
            depth += 1
        self.ranges = {
            "depth": (_log2(MIN_DEPTH), depth),
            "width": (_log2(MIN_DEPTH), min(_log2(self.products // MIN_DEPTH), _log2(WIDEST))),
            "packed": (0, int(self.may_pack)),
            "lanes": (_log2(MIN_LANES), depth),
            "accumulator": (0, 3),
            "activation": (0, 10),
            "banks": (0, 2),
            "ports": (0, _log2(part.ports)),
            "ring_read": (0, 4),
            "ring": (4, 13),
            "outputs": (0, _log2(part.ports)),
        }
        if ultra:
            self.ranges["ultra"] = (0, _RING | _ACTIVATIONS)

    @property
    def may_pack(self) -> bool:
        """Two products in a multiplier need one of 27 by 18 bits."""
        return self.part.family == "xcup"

    @property
    def _activation_least(self) -> int:
        """Number of the least size that holds a row of int8 for every token."""
        return next(n for n in count() if _size(n) >= self.needs.tokens * self.needs.channels)

    def _rows_least(self, width: int) -> int:
        """A bank holds the logits of all experts, for every token."""
        return power_above(self.needs.tokens * layout.words(self.needs.experts, width))

    def target(self, chosen: Mapping[str, int], name: str, device: str) -> ArchConfig:
        """The target of a point."""
        needs, part = self.needs, self.part
        depth = 1 << chosen["depth"]
        width = min(max(1 << chosen["width"], depth), MAX_PRODUCTS // depth)
        while width > depth and depth * width > self.products:
            width //= 2
        # Where there are not enough multipliers for one product each, none is left the choice.
        crowded = self.may_pack and depth * width > self.part.capacity["dsp"]
        lanes = min(1 << chosen["lanes"], depth)
        port_bytes = part.port_bytes
        data_bytes = min(port_bytes, depth, 2 * lanes, INSTRUCTION_BYTES)
        ports = min(1 << chosen["ports"], part.ports)
        line = ports * port_bytes
        while line > depth * width and ports > 1:
            ports, line = ports // 2, line // 2
        ring_read = min(max(width, line) << chosen["ring_read"], depth * width)
        ring = max(min(ring_read << chosen["ring"], self.most_bytes), 16 * ring_read)
        most = min(self.most_bytes, MOST_WORDS * depth)
        activation = min(_size(self._activation_least + chosen["activation"]), most)
        banks = 1 << chosen["banks"]
        if activation % 3 == 0:
            banks = 3 * max(1, banks // 2)
        outputs = min(1 << chosen["outputs"], ports, 2 * lanes // data_bytes)
        residual = layout.words(needs.tokens * layout.words(needs.channels, lanes), RAM_WORDS)
        rows = self._rows_least(width) << chosen["accumulator"]
        ultra = chosen.get("ultra", 0)
        return ArchConfig(
            name=name,
            depth=depth,
            width=width,
            packed=bool(chosen["packed"]) or crowded,
            lanes=lanes,
            accumulator_rows=min(rows, MOST_ACCUMULATOR_ROWS),
            activation_bytes=max(activation, depth * banks),
            activation_banks=banks,
            residual_bytes=2 * lanes * min(residual * RAM_WORDS, MOST_WORDS),
            weight_ports=ports,
            weight_port_bytes=port_bytes,
            ring_read_bytes=ring_read,
            ring_bytes=ring,
            ultra_ring=bool(ultra & _RING),
            ultra_activations=bool(ultra & _ACTIVATIONS),
            data_port_bytes=data_bytes,
            output_ports=outputs if port_bytes == data_bytes else 1,
            max_tokens=min(power_above(needs.tokens), MAX_TOKENS),
            max_experts=min(power_above(needs.experts), MAX_EXPERTS),
            max_burst=part.max_burst,
            secure=part.secure,
            device=device,
        )

    def point(self, arch: ArchConfig) -> dict[str, int]:
        """The point nearest to a target."""
        point = {
            "depth": _log2(arch.depth),
            "width": _log2(arch.width),
            "packed": int(arch.packed),
            "lanes": _log2(arch.lanes),
            "accumulator": _ratio(arch.accumulator_rows, self._rows_least(arch.width)),
            "activation": _number(arch.activation_bytes) - self._activation_least,
            "banks": _log2(arch.activation_banks),
            "ports": _log2(arch.weight_ports),
            "ring_read": _ratio(arch.ring_read_bytes, max(arch.width, arch.line_bytes)),
            "ring": _log2(arch.ring_words),
            "outputs": _log2(arch.output_ports),
            "ultra": _RING * arch.ultra_ring | _ACTIVATIONS * arch.ultra_activations,
        }
        return {name: min(max(point[name], low), high) for name, (low, high) in self.ranges.items()}


def _ratio(size: int, least: int) -> int:
    return _log2(max(size // least, 1))
