"""What a target takes of a part, without synthesising it.

Block RAM follows from the sizes of the memories. LUT, flip-flops and multipliers of each block are
sums of a few sizes of the target times coefficients, which ``moesaic.hw.resources.samples`` fits to
counts of yosys; ``resource_samples.json`` holds both.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moesaic.spec.arch import ArchConfig
from moesaic.spec.memories import INFERRED, block_rams, memories, ram_kind
from moesaic.spec.parts import FAMILIES, Part

FITTED = ("lut", "ff", "dsp")
"""Kinds of resources that coefficients give."""
Feature = Callable[[ArchConfig], float]


def _one(arch: ArchConfig) -> float:
    return 1.0


def _size(name: str) -> Feature:
    def of(arch: ArchConfig) -> float:
        return float(getattr(arch, name))

    return of


def _when(packed: bool, feature: Feature) -> Feature:
    """The feature in targets that are packed, or that are not."""

    def of(arch: ArchConfig) -> float:
        return feature(arch) if arch.packed == packed else 0.0

    return of


def _paired_lanes(arch: ArchConfig) -> float:
    """Lanes for the second chunks of pairs."""
    return float(arch.most_lanes - arch.lanes)


_WIDTH, _DEPTH, _LANES = _size("width"), _size("depth"), _size("lanes")
_LINE, _RING = _size("line_bytes"), _size("ring_read_bytes")
_EXPERTS, _PORTS = _size("max_experts"), _size("weight_ports")

FEATURES: dict[str, tuple[Feature, ...]] = {
    "control": (_one, _PORTS),
    "core.stream": (_one, _PORTS, _LINE, _RING),
    "core.matrix.array.columns": tuple(
        _when(packed, feature)
        for packed in (False, True)
        for feature in (_WIDTH, _size("macs_per_cycle"))
    ),
    "core.matrix.array": (_one, _DEPTH, _RING, _WIDTH),
    "core.matrix.accumulate": (_one, _WIDTH),
    "core.matrix": (_one, _DEPTH, _RING),
    "core.vector.lanes": (_one, _LANES),
    "core.vector.operands": (_one, _LANES, _WIDTH),
    "core.vector.statistics": (_one, _LANES),
    "core.vector.upper_lanes": (_paired_lanes,),
    "core.vector": (_one, _LANES, _DEPTH, _paired_lanes),
    "core.router": (_one, _LANES, _EXPERTS),
    "core.load": (_one, _DEPTH, _LANES),
    "core.store": (
        _one,
        _LANES,
        lambda arch: float(arch.output_ports * arch.data_port_bytes),
    ),
    "core.scratchpad": (_one, _DEPTH, lambda arch: float(arch.depth * arch.activation_banks)),
    "top": (_one, _PORTS),
}
"""By block of ``hw/resources/report.py``: what its size is made of."""

FILE = Path(__file__).with_name("resource_samples.json")


@functools.cache
def samples() -> dict[str, Any]:
    """The counts and what was fitted to them: ``samples``, ``coefficients``, ``error``."""
    result: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return result


def features(block: str, arch: ArchConfig) -> list[float]:
    """What coefficients of a block are multiplied with."""
    return [feature(arch) for feature in FEATURES[block]]


def predict_blocks(
    arch: ArchConfig, coefficients: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, dict[str, float]]:
    """LUT, flip-flops and multipliers of each block; ``coefficients`` by kind and block."""
    return {
        block: {
            kind: sum(
                factor * size
                for factor, size in zip(
                    coefficients[kind][block], features(block, arch), strict=True
                )
            )
            for kind in FITTED
        }
        for block in FEATURES
    }


def blocks_of(arch: ArchConfig) -> set[str]:
    """The blocks that a target has: without pairs of chunks there are no lanes for the second."""
    return {block for block in FEATURES if any(features(block, arch))}


def predict(
    arch: ArchConfig, family: str, coefficients: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, float]:
    """Resources by kind; ``coefficients`` by kind and block."""
    total = dict.fromkeys(FAMILIES[family], 0.0)
    for fitted in predict_blocks(arch, coefficients).values():
        for kind, number in fitted.items():
            total[kind] += number
    kind = ram_kind(family)
    for ram in memories(arch):
        # What is to be UltraRAM is block RAM where there is none.
        place = "uram" if ram.ultra and "uram" in total else kind
        total[place] += ram.count * block_rams(ram, place)
    total[kind] += sum(INFERRED[kind].values())
    return {kind: float(round(number, 1)) for kind, number in total.items()}


def target_resources(arch: ArchConfig, family: str) -> dict[str, float]:
    """Resources of a target by kind, as yosys would count them for a family of parts.

    Products of two weights at a time need multipliers of 27 by 18 bits, so for other families
    than ``xcup`` a packed target takes as many multipliers as one that is not.
    """
    return predict(arch, family, samples()["coefficients"][family])


def block_resources(arch: ArchConfig, family: str) -> dict[str, dict[str, float]]:
    """The LUT, flip-flops and multipliers of :func:`target_resources` by block."""
    return predict_blocks(arch, samples()["coefficients"][family])


def shares(resources: Mapping[str, float], part: Part) -> dict[str, float]:
    """Share of a part; infinity of what it has none of."""
    result = {}
    for kind, number in resources.items():
        there = part.capacity[kind]
        result[kind] = number / there if there else (math.inf if number else 0.0)
    return result
