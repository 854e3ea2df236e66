"""Turns performance counters into the figures of ``stats.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from moesaic.sim.dram import PortStatistics
from moesaic.sim.profile import Profile, read_program
from moesaic.spec import layout, semantics, tables
from moesaic.spec.activations import ACTIVATIONS, FINEST_STEP, tabulate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.clocks import Clock, find_clock
from moesaic.spec.energy import frame_energy
from moesaic.spec.graph_sizes import part_macs
from moesaic.spec.intgraph import IntAttention, IntGraph
from moesaic.spec.isa import Opcode, Stationary, Unit
from moesaic.spec.memory import roofline_cycles


def frame_statistics(
    bundle: Bundle,
    task: str,
    counters: list[dict[str, int]],
    dram: list[dict[str, PortStatistics]],
    profiles: Sequence[Profile] = (),
    seconds: Sequence[float] = (),
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Statistics of one run; a value stands for one frame, the mean over all where they differ.

    Keys: ``task``, ``target``, ``frames``, ``cycles`` (a list, one entry per frame), ``macs``,
    ``dram_read_bytes``, ``dram_write_bytes``, ``weight_read_bytes``, ``roofline_cycles``,
    ``utilisation`` (roofline_cycles over cycles), ``units`` (of each: busy, token wait and stall
    cycles, and busy share), ``energy`` (by :mod:`moesaic.spec.energy`, at ``clock``, by default the
    target's; None where it knows none), ``innovations`` (of the last frame) and ``per_frame`` (the
    same figures and the raw counters of each frame).

    With ``profiles``: ``kinds`` (cycles by kind of layer); ``layers`` (of each: label, kind,
    cycles; ``array_cycles``, its MACs over those of a cycle; ``matrix``, what the matrix unit did
    in its cycles, where busy beyond ``array_cycles`` is the padding of tiles; and in MoE layers
    ``experts``, the tokens of each, and ``imbalance``, the most over their mean); and in
    ``units`` the cycles of every state (``states``: busy, ``token <unit>`` that lacks, ``stall
    <reason>``, idle); every frame has its own ``kinds`` besides. With ``seconds``:
    ``simulation_seconds``, how long simulating a frame took.
    """
    arch, graph = bundle.arch, bundle.graphs[task]
    per_frame = [
        _one_frame(arch, graph.macs, counter, ports)
        for counter, ports in zip(counters, dram, strict=True)
    ]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    means = {
        name: mean([frame[name] for frame in per_frame])
        for name in ("dram_read_bytes", "dram_write_bytes", "weight_read_bytes", "roofline_cycles")
    }
    cycles = [frame["CYCLES"] for frame in counters]
    units: dict[str, dict[str, Any]] = {
        unit.name.lower(): {
            "busy_cycles": mean([frame[f"{unit.name}_BUSY"] for frame in counters]),
            "wait_token_cycles": mean([frame[f"{unit.name}_WAIT_TOKEN"] for frame in counters]),
            "stall_cycles": mean([frame[f"{unit.name}_STALL"] for frame in counters]),
            "busy_share": sum(frame[f"{unit.name}_BUSY"] for frame in counters) / sum(cycles),
        }
        for unit in Unit
    }
    energy = frame_energy(
        arch,
        clock or find_clock(arch),
        mean([float(c) for c in cycles]),
        {unit: figures["busy_cycles"] for unit, figures in units.items()},
        means["dram_read_bytes"] + means["dram_write_bytes"],
    )
    profile: dict[str, Any] = {}
    if profiles:
        profile = _profile_means(profiles, arch, graph)
        for name, states in profile.pop("states").items():
            units[name]["states"] = states
        for frame, one in zip(per_frame, profiles, strict=True):
            frame["kinds"] = one.kinds
    if seconds:
        profile["simulation_seconds"] = sum(seconds) / len(seconds)
    return {
        "task": task,
        "target": arch.name,
        "frames": len(cycles),
        "cycles": cycles,
        "macs": graph.macs,
        **means,
        "utilisation": means["roofline_cycles"] / mean([float(c) for c in cycles]),
        "units": units,
        "energy": energy.to_dict() if energy else None,
        **profile,
        "innovations": innovations(bundle, task, counters),
        "per_frame": per_frame,
    }


def _profile_means(
    profiles: Sequence[Profile], arch: ArchConfig, graph: IntGraph
) -> dict[str, Any]:
    """Means over frames of cycles by kind, by layer, and by state of every unit."""
    frames = len(profiles)

    def mean(parts: Sequence[Mapping[str, int]]) -> dict[str, float]:
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0) for part in parts) / frames for name in names}

    layers: list[dict[str, Any]] = []
    macs = part_macs(graph.embed, graph.layers, graph.heads, len(graph.gather))
    matrix = zip(*(profile.states_by_layer(Unit.MATRIX) for profile in profiles), strict=True)
    by_layer = zip(*(profile.layers for profile in profiles), strict=True)
    for same, states, products in zip(by_layer, matrix, macs, strict=True):
        layer: dict[str, Any] = {"label": same[0].label, "kind": same[0].kind}
        layer["cycles"] = sum(each.cycles for each in same) / frames
        layer["array_cycles"] = products / arch.macs_per_cycle
        layer["matrix"] = mean(states)
        counts = [each.experts for each in same if each.experts is not None]
        if counts:
            means = [sum(column) / frames for column in zip(*counts, strict=True)]
            peaks = [max(tokens) * len(tokens) / sum(tokens) for tokens in counts]
            layer |= {"experts": means, "imbalance": sum(peaks) / frames}
        layers.append(layer)
    return {
        "kinds": mean([profile.kinds for profile in profiles]),
        "layers": layers,
        "states": {
            unit.name.lower(): mean([profile.states(unit) for profile in profiles]) for unit in Unit
        },
    }


def _one_frame(
    arch: ArchConfig, macs: int, counters: dict[str, int], ports: dict[str, PortStatistics]
) -> dict[str, Any]:
    """Figures of one frame, bytes as the DRAM model saw them."""
    read = sum(port.read_bytes for port in ports.values())
    written = sum(port.write_bytes for port in ports.values())
    weights = sum(port.read_bytes for name, port in ports.items() if name.startswith("w"))
    best = roofline_cycles(arch, macs, weights, read - weights, written)
    return {
        "cycles": counters["CYCLES"],
        "dram_read_bytes": read,
        "dram_write_bytes": written,
        "weight_read_bytes": weights,
        "roofline_cycles": best,
        "utilisation": best / counters["CYCLES"],
        "counters": counters,
    }


def query_rows(program: bytes) -> int:
    """Rows of queries that a program takes at a time; 0 without attention."""
    scores = [
        instruction.values["rows"]
        for instruction in read_program(program)
        if instruction.opcode is Opcode.MATMUL
        and instruction.values["stationary"] == Stationary.COLUMNS
    ]
    return max(scores, default=0)


def operand_words(graph: IntGraph, arch: ArchConfig, block: int) -> int:
    """Operand words of Q*K^T and P*V over all heads of a frame, by formula.

    With N tokens and p columns, one head's scores load N keys and stream N queries for each of
    ceil(N / p) column tiles: N^2/p + N vectors, each ceil(dim / depth) words. The product with
    the values likewise, with values and probabilities. Every ``block`` of queries loads keys and
    values again.
    """
    total, n = 0, graph.tokens
    tiles = layout.words(n, arch.width)
    blocks = layout.words(n, block) if block else 0
    for layer in graph.layers:
        if isinstance(layer, IntAttention):
            dim = layout.words(layer.head_dim, arch.depth)
            value = layout.words(layer.value_dim, arch.depth)
            columns = layout.words(value * arch.depth, arch.width)
            scores = n * tiles * dim + blocks * n * dim
            mixed = n * layout.words(n, arch.depth) * columns
            mixed += blocks * n * columns * (arch.width // arch.depth)
            total += layer.heads * (scores + mixed)
    return total


def activation_tables() -> dict[str, Any]:
    """Cost of a lane's tables of activations, and the error of GELU's: bits, multipliers, largest
    error over every input code between -8 and 8 against the exact function."""
    table = tabulate("gelu", FINEST_STEP)
    z = torch.arange(round(-8 / table.step), round(8 / table.step))
    above, below = (
        torch.tensor(part, dtype=torch.int64) for part in (table.positive, table.negative)
    )
    fine = semantics.activation_fine(z, above, below, table.linear)
    exact = ACTIVATIONS[table.name].function(z.numpy() * table.step)
    entry = tables.ACTIVATION_VALUE_BITS + tables.ACTIVATION_SLOPE_BITS
    return {
        "table_bits": tables.ACTIVATION_TABLES * tables.ACTIVATION_ENTRIES * entry,
        "multipliers_per_lane": 2,  # interpolation and requantisation
        "maximum_error": float(np.abs(fine.numpy() * table.fine - exact).max()),
    }


def innovations(bundle: Bundle, task: str, counters: list[dict[str, int]]) -> dict[str, Any]:
    """What shows each of the five design ideas, from the counters of the last frame."""
    graph, arch, last = bundle.graphs[task], bundle.arch, counters[-1]
    heads = sum(layer.heads for layer in graph.layers if isinstance(layer, IntAttention))
    loads = last["MATRIX_OPERAND_LOADS"] + last["ATTENTION_STREAM_WORDS"]
    segments = last["EXPERTS_FETCHED"] + last["EXPERTS_SKIPPED"]
    return {
        "attention_reordering": {
            "operand_words_per_head": loads / heads if heads else 0,
            "by_formula": operand_words(graph, arch, query_rows(bundle.programs[task])) / heads
            if heads
            else 0,
            "parallelism": arch.width,
        },
        "single_pass_softmax": {
            "scores": last["SCORE_WORDS"] * arch.most_lanes,
            "score_reads_for_reduction": (last["SCORE_READS"] - last["SCORE_WORDS"])
            * arch.most_lanes,
        },
        "activation_tables": {"lookups": last["ACTIVATION_LOOKUPS"], **activation_tables()},
        "unified_unit": {
            "busy_share": last["MATRIX_BUSY"] / last["CYCLES"],
            "attention_words": last["ATTENTION_STREAM_WORDS"],
            "linear_words": last["MATRIX_STREAM_WORDS"] - last["ATTENTION_STREAM_WORDS"],
        },
        "expert_reordering": {
            "segments": segments,
            "fetched": last["EXPERTS_FETCHED"],
            "skipped": last["EXPERTS_SKIPPED"],
            "weight_read_bytes": last["WEIGHT_READ_BYTES"],
            "weight_unused_bytes": last["WEIGHT_UNUSED_BYTES"],
            "weight_image_bytes": bundle.tasks[task].weight_words * arch.ring_read_bytes,
        },
    }
