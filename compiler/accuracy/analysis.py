"""Where a compiled task loses its accuracy, measured on samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.accuracy.noise import noise_alone
from moesaic.compiler.accuracy.reals import Codes, Rounding, in_reals
from moesaic.compiler.accuracy.sizes import cycles, widened
from moesaic.compiler.float_reference import choose_experts, run_outputs
from moesaic.compiler.points import WIDE_KINDS, layer_point
from moesaic.compiler.quant.calibrate import CHUNK_FRAMES
from moesaic.compiler.quant.samples import spread
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import dequantise_outputs, quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import ratio_db, sqnr_db

OUTLIER = 6.0
"""A channel is one if it reaches so many times the median of its tensor's channels."""


@dataclass(frozen=True)
class PointAccuracy:
    """A quantised point, or the same point of all experts of a layer."""

    point: str
    bits: int | None
    """None of softmax numerators, which have eight and a scale of their own in each row."""
    alone_db: float
    """SQNR of the output if this point alone is rounded."""
    cumulated_db: float
    """If this point and all worse ones are, their errors added as if independent."""
    clipped: float
    """Share of its values that saturate."""
    outlier_channels: int
    wide_cycles: int | None
    """Cycles of a frame that 16 bits would add; None where there are none or it does not fit."""


@dataclass(frozen=True)
class Flips:
    """Tokens of a layer that choose other experts than in float."""

    layer: str
    share: float
    margin: float
    """Median difference between the last chosen and the first other logit, of tokens that flip."""
    margin_of_all: float


@dataclass(frozen=True)
class TaskAccuracy:
    """SQNR are in dB, at the end of the accelerator."""

    task: str
    samples: int
    total_db: float
    """Of the integers against the float model, or without one against the integers' weights; this
    and the others of the worst output."""
    outputs_db: dict[str, float]
    """``total_db`` of each output."""
    frames_db: list[float]
    """``total_db`` of each frame alone: one that is far from its floats outweighs all others in
    their sum."""
    weights_db: float | None
    """Of the integers' weights in float against the float model; None without one."""
    roundings_db: float
    """Of the integers against a float run with their weights."""
    points: list[PointAccuracy]
    """The worst first."""
    flips: list[Flips]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metric to its value for ``float`` (if there is a model) and ``integer`` outputs."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def analyse(
    graph: IntGraph,
    arch: ArchConfig,
    schedule: Schedule,
    samples: NDArray[np.float32],
    model: ir.Graph | None = None,
) -> tuple[TaskAccuracy, NDArray[np.int16]]:
    """Measure one task; also returns the integers' output codes [frames, codes].

    Parameters
    ----------
    graph, arch, schedule
        What was compiled, for what, and how.
    samples
        [frames, *graph.input_shape[1:]], others than those of calibration.
    model
        The float model that it came from.
    """
    reals, roundings = in_reals(graph)
    yardstick = model or reals
    exact, logits = _float_run(yardstick, samples)
    weights = exact if model is None else _float_run(reals, samples)[0]
    codes, chosen = _integer_run(graph, samples)
    integer = dequantise_outputs(graph, codes)
    outputs_db = _db(exact, integer)
    rows = spread(samples, graph.tokens * graph.channels)
    result = TaskAccuracy(
        task=graph.task,
        samples=len(samples),
        total_db=min(outputs_db.values()),
        outputs_db=outputs_db,
        frames_db=_frames_db(exact, integer),
        weights_db=None if model is None else min(_db(exact, weights).values()),
        roundings_db=min(_db(weights, integer).values()),
        points=_points(graph, arch, schedule, rows, reals, roundings),
        flips=[
            _flips(yardstick.layers[number], graph.layers[number].name, values, chosen[number])
            for number, values in logits.items()
        ],
    )
    return result, codes


Outputs = Mapping[str, NDArray[np.floating]]


def _db(exact: Outputs, values: Outputs) -> dict[str, float]:
    """Of each output."""
    return {
        name: sqnr_db(exact[name].astype(np.float32), value.reshape(exact[name].shape))
        for name, value in values.items()
    }


def _frames_db(exact: Outputs, values: Outputs) -> list[float]:
    """Of the worst output of each frame."""
    count = len(next(iter(values.values())))
    frames = (slice(number, number + 1) for number in range(count))
    return [
        min(
            _db(
                {name: value[frame] for name, value in exact.items()},
                {name: value[frame] for name, value in values.items()},
            ).values()
        )
        for frame in frames
    ]


def _float_run(graph: ir.Graph, samples: NDArray[np.float32]) -> tuple[Outputs, dict[int, Tensor]]:
    """Outputs and the logits of every gate."""
    outputs: dict[str, list[NDArray[np.floating]]] = defaultdict(list)
    logits = defaultdict[int, list[Tensor]](list)

    def observe(point: str, value: Tensor) -> None:
        if point.endswith(".logits"):
            logits[int(point.split(".")[0])].append(value)

    for start in range(0, len(samples), CHUNK_FRAMES):
        part = run_outputs(graph, samples[start : start + CHUNK_FRAMES], observe)
        for name, value in part.items():
            outputs[name].append(value)
    joined = {name: np.concatenate(values) for name, values in outputs.items()}
    return joined, {number: torch.cat(part) for number, part in logits.items()}


def _integer_run(
    graph: IntGraph, samples: NDArray[np.float32]
) -> tuple[NDArray[np.int16], dict[int, Tensor]]:
    """Output codes and the experts that every gate chose, [frames, tokens, top_k]."""
    chosen: dict[int, list[Tensor]] = defaultdict(list)

    def observe(point: str, value: Tensor) -> None:
        if point.endswith(".chosen"):
            chosen[int(point.split(".")[0])].append(value)

    codes = Executor(graph).run(quantise_input(graph, samples), observe)
    return codes, {number: torch.stack(part) for number, part in chosen.items()}


def _flips(layer: ir.Layer, name: str, logits: Tensor, chosen: Tensor) -> Flips:
    """``name`` is the layer's in the bundle; in the file it has that of a node."""
    assert isinstance(layer, ir.Moe)
    _, wanted = choose_experts(layer, logits)
    differs = (wanted.sort(-1).values != chosen.sort(-1).values).any(-1)
    ordered = logits.sort(-1, descending=True).values
    margins = ordered[..., layer.top_k - 1] - ordered[..., min(layer.top_k, len(layer.experts) - 1)]
    flipped = margins[differs]
    return Flips(
        layer=name,
        share=float(differs.double().mean()),
        margin=float(flipped.median()) if flipped.numel() else 0.0,
        margin_of_all=float(margins.median()),
    )


def _points(
    graph: IntGraph,
    arch: ArchConfig,
    schedule: Schedule,
    rows: NDArray[np.float32],
    reals: ir.Graph,
    roundings: dict[str, Rounding],
) -> list[PointAccuracy]:
    clipped: dict[str, list[float]] = defaultdict(list)
    outliers: dict[str, int] = defaultdict(int)

    def observe(point: str, value: Tensor) -> None:
        rounding = roundings.get(point)
        if isinstance(rounding, Codes):
            clipped[layer_point(point)].append(rounding.clipped(value))
            peaks = value.abs().flatten(0, -2).amax(0)
            outliers[layer_point(point)] += int((peaks > OUTLIER * peaks.median()).sum())

    run_outputs(reals, rows, observe, torch.float32)
    bits = {
        layer_point(point): int(np.asarray(rounding.highest - rounding.lowest).min()).bit_length()
        for point, rounding in roundings.items()
        if isinstance(rounding, Codes)
    }
    plain = cycles(graph, arch, schedule)
    total, points = 0.0, []
    for cost in noise_alone(graph, rows):
        total += cost.noise
        more = None
        if cost.point.endswith(WIDE_KINDS) and bits[cost.point] == 8:
            try:
                more = cycles(widened(graph, [cost.point]), arch, schedule) - plain
            except UserError:  # it does not fit
                pass
        shares = clipped[cost.point]
        points.append(
            PointAccuracy(
                point=cost.point,
                bits=bits.get(cost.point),
                alone_db=cost.db,
                cumulated_db=ratio_db(1.0, total),
                clipped=float(np.mean(shares)) if shares else 0.0,
                outlier_channels=outliers[cost.point],
                wide_cycles=more,
            )
        )
    return points
