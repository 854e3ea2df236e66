"""What keeps the array from its products, in sentences with their figures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from moesaic.compiler.estimate.task import Estimate
from moesaic.compiler.page.layers import LayerFacts
from moesaic.compiler.page.words import lane_words, percent
from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import Clock
from moesaic.spec.memory import MemoryTiming

LARGEST = 3
LEAST_CYCLES = 0.5
"""What takes less is no loss."""


@dataclass(frozen=True)
class Loss:
    """Cycles of a frame in which the array works on no product of the model."""

    reason: str
    cycles: float
    share: float
    """Of the frame."""
    sentence: str


def find_losses(
    layers: list[LayerFacts],
    estimate: Estimate,
    arch: ArchConfig,
    memory: MemoryTiming,
    clock: Clock,
) -> list[Loss]:
    """The largest losses: layers of a kind that lose for the same reason are one."""
    groups: dict[tuple[str, str], list[tuple[float, LayerFacts]]] = defaultdict(list)
    for layer in layers:
        for reason, cycles in {**layer.waits, "padding": layer.padding_cycles}.items():
            if cycles >= LEAST_CYCLES:
                groups[layer.kind, reason].append((cycles, layer))
    result = []
    for (kind, reason), members in groups.items():
        cycles = sum(lost for lost, _ in members)
        share = cycles / estimate.cycles
        who = _who(kind, members)
        why = _why(reason, kind, [layer for _, layer in members], arch, memory, clock)
        sentence = f"{who} {_verb(reason, members)} {percent(share)} of the frame {why}"
        if len(members) > 1:
            most, layer = max(members, key=lambda one: one[0])
            sentence += f"; at most {percent(most / estimate.cycles)} in layer {layer.short}"
        result.append(Loss(reason, cycles, share, sentence + "."))
    if (drain := estimate.drain_cycles) > 0:
        share = drain / estimate.cycles
        result.append(
            Loss(
                "drain",
                drain,
                share,
                f"{percent(share)} of the frame passes after the last product: {drain:,} cycles"
                " until the outputs are drained and the memory has answered.",
            )
        )
    return sorted(result, key=lambda loss: -loss.cycles)[:LARGEST]


def _who(kind: str, members: list[tuple[float, LayerFacts]]) -> str:
    if len(members) > 1:
        return f"{len(members)} {kind} layers"
    short = members[0][1].short
    return f"The {short}" if kind in ("embed", "head") else f"Layer {short}"


def _verb(reason: str, members: list[tuple[float, LayerFacts]]) -> str:
    verb = "spend" if reason in ("padding", "short passes") else "wait"
    return verb if len(members) > 1 else f"{verb}s"


def _why(
    reason: str,
    kind: str,
    layers: list[LayerFacts],
    arch: ArchConfig,
    memory: MemoryTiming,
    clock: Clock,
) -> str:
    """The rest of the sentence, with the figures behind the loss."""
    match reason:
        case "weights":
            megabytes = sum(layer.weight_bytes for layer in layers) / 1e6
            rate = clock.gigabytes_per_second(arch.line_bytes * memory.bandwidth_share)
            return f"for weights: {megabytes:.3g} MB at {rate:.1f} GB/s"
        case "vector unit":
            chunks = sum(layer.vector_cycles for layer in layers)
            busy = sum(layer.useful_cycles + layer.padding_cycles for layer in layers)
            return (
                f"for the vector unit: {chunks:,} cycles of {lane_words(arch)} each beside"
                f" {busy:,.0f} of the array"
            )
        case "order":
            results = {
                "attention": "normalised rows and the softmax",
                "moe": "normalised rows and the router's choice",
                "dense": "normalised rows and the activation",
                "embed": "the program and the input",
            }
            return f"for what they need of other units: {results.get(kind, 'normalised rows')}"
        case "tile loads":
            return (
                f"for tiles: loading {arch.depth} x {arch.width} weights takes"
                f" {arch.tile_ring_words} cycles, longer than the rows that use them"
            )
        case "padding":
            macs = sum(layer.macs for layer in layers) / 1e6
            return (
                f"on products that the model does not have: {macs:.3g} M MAC fill {arch.depth} x"
                f" {arch.width} tiles in part, or have rows of 16 bits that pass twice"
            )
        case "short passes":
            return "between passes over so few rows that the sums of the last one are under way"
        case _:
            raise AssertionError(reason)
