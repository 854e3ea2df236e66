"""Runs the integer graph beside the float graph and compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import choose_experts, run_outputs
from moesaic.compiler.points import ALL_FEATURES, mlp_hidden, sites, wide_points
from moesaic.compiler.quant.calibrate import CHUNK_FRAMES
from moesaic.compiler.quant.given import given_notes
from moesaic.compiler.quant.options import QuantOptions
from moesaic.compiler.quant.report import PointReport, QuantReport
from moesaic.compiler.quant.scales import INT16_MAX, Scales
from moesaic.spec.execute import Executor
from moesaic.spec.formats import UINT8_LARGEST
from moesaic.spec.hostside import dequantise_outputs, quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import ratio_db


class Comparison:
    """Float and integer run of one task on the same samples.

    Attributes
    ----------
    samples
        How many.
    saturated
        Residual values that reached full scale in the integer run.
    """

    def __init__(self, graph: ir.Graph, integer: IntGraph, samples: NDArray[np.float32]) -> None:
        self.graph = graph
        self._signal: dict[str, float] = defaultdict(float)
        self._noise: dict[str, float] = defaultdict(float)
        self.saturated = 0
        self.samples = len(samples)
        self._flipped: dict[int, int] = defaultdict(int)
        self._tokens: dict[int, int] = defaultdict(int)
        executor = Executor(integer)
        for start in range(0, len(samples), CHUNK_FRAMES):
            self._compare(integer, executor, samples[start : start + CHUNK_FRAMES])

    @property
    def outputs_db(self) -> dict[str, float]:
        """Output to 10 log10(signal / noise); infinite if there is no error."""
        return {name: ratio_db(self._signal[name], self._noise[name]) for name in self._signal}

    @property
    def sqnr_db(self) -> float:
        """Of the worst output."""
        return min(self.outputs_db.values())

    @property
    def flips(self) -> dict[str, float]:
        """MoE layer to the share of tokens with another set of experts than in float."""
        return {
            self.graph.layers[number].name: self._flipped[number] / tokens
            for number, tokens in self._tokens.items()
        }

    def _compare(self, integer: IntGraph, executor: Executor, samples: NDArray[np.float32]) -> None:
        logits: dict[int, Tensor] = {}
        chosen: dict[int, list[Tensor]] = defaultdict(list)

        def observe_float(point: str, value: Tensor) -> None:
            if point.endswith(".logits"):
                logits[int(point.split(".")[0])] = value

        def observe_integer(point: str, value: Tensor) -> None:
            if point.endswith(".chosen"):
                chosen[int(point.split(".")[0])].append(value)
            elif point == "embed" or point.endswith(".residual"):
                self.saturated += int((value.abs() >= INT16_MAX).sum())

        floats = run_outputs(self.graph, samples, observe_float)
        codes = executor.run(quantise_input(integer, samples), observe_integer)
        for name, value in dequantise_outputs(integer, codes).items():
            exact = floats[name]
            self._signal[name] += float((exact**2).sum())
            self._noise[name] += float(((exact - value.reshape(exact.shape)) ** 2).sum())
        for number, values in logits.items():
            layer = self.graph.layers[number]
            assert isinstance(layer, ir.Moe)
            _, wanted = choose_experts(layer, values)
            got = torch.stack(chosen[number]).reshape(wanted.shape)
            differs = (wanted.sort(-1).values != got.sort(-1).values).any(-1)
            self._flipped[number] += int(differs.sum())
            self._tokens[number] += differs.numel()


def make_report(
    task: str,
    graph: ir.Graph,
    scales: Scales,
    comparison: Comparison,
    options: QuantOptions,
    *,
    wide: Collection[str] = (),
    held_out: bool = False,
    notes: Sequence[str] = (),
) -> QuantReport:
    """Collect the figures of one task.

    ``wide`` points have 16 bits; ``held_out`` says whether the comparison's samples are others
    than those of calibration, of which ``notes`` tells.
    """
    left_out = options.left_out
    without = [f"quantised without {', '.join(left_out)}"] if left_out else []
    return QuantReport(
        task=task,
        samples=comparison.samples,
        held_out=held_out,
        sqnr_db=comparison.sqnr_db,
        outputs_db=comparison.outputs_db,
        routing_flips=comparison.flips,
        points=_points(task, graph, scales, wide),
        notes=[*notes, *given_notes(graph), *without, *_notes(task, graph, scales)],
    )


def _points(
    task: str, graph: ir.Graph, scales: Scales, wide: Collection[str]
) -> dict[str, PointReport]:
    names = dict.fromkeys(point for site in sites(graph) for point in (site.source, site.target))
    points, features = {}, wide_points(graph, wide)
    for name in names:
        if name.endswith("active"):  # nothing holds it: it is multiplied as it is computed
            continue
        seen = scales.statistics.ranges[scales.shared.find(task, name)]
        some = features.get(name, 0)
        bits, clip = scales.bits_and_clip(task, name, some == ALL_FEATURES)
        step = clip / ((1 << bits - 1) - 1)
        if name.endswith("hidden") and bits == 8:
            step, zero = scales.hidden_without(task, name, some)
            clip = step * (UINT8_LARGEST - zero) if some else clip
        elif name.endswith("factor"):
            hidden = name.removesuffix("factor") + "hidden"
            count = features.get(hidden, 0)
            codes = (
                scales.wide(task, hidden)
                if count == ALL_FEATURES
                else scales.hidden_without(task, hidden, count)[0]
            )
            bits, step = 16, scales.factor(task, hidden, codes)[0]
            clip = step * INT16_MAX
        elif name == "input":
            step, _ = scales.input(task)
            clip = seen.maximum
        clipped = 0.0 if some else seen.clipped_share(clip)
        wide_channels = some if bits == 8 else 0
        points[name] = PointReport(bits, seen.maximum, clip, step, clipped, wide_channels)
    return points


def _notes(task: str, graph: ir.Graph, scales: Scales) -> Iterator[str]:
    for number, layer in enumerate(graph.layers):
        experts: Sequence[int | None]
        match layer:
            case ir.Attention():
                experts = []
            case ir.Mlp():
                experts = [None]
            case ir.Moe():
                experts = range(len(layer.experts))
            case ir.Renorm():
                experts = []
            case _:
                assert_never(layer)
        for expert in experts:
            point = mlp_hidden(number, expert)
            largest = scales.statistics.ranges[scales.shared.find(task, point)].maximum
            where = layer.name if expert is None else f"expert {expert} of {layer.name}"
            limit = scales.limit(task, point)
            if largest >= limit:
                yield f"{where}: activations reach {largest:.1f} but saturate at {limit:g}"
            elif largest == 0.0 and expert is not None:
                yield f"{where}: no sample was routed to it, so its range is a guess"
