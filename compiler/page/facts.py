"""Every figure of the page, from the bundle and the cost model; the page only shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesaic.compiler.estimate.energy import estimated_energy
from moesaic.compiler.estimate.task import Estimate
from moesaic.compiler.page.figures import PointFigures, TaskFigures
from moesaic.compiler.page.layers import LayerFacts, layer_facts
from moesaic.compiler.page.losses import Loss, find_losses
from moesaic.compiler.points import layer_point
from moesaic.compiler.schedule.joint import Joint
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.clocks import Clock
from moesaic.spec.energy import Energy
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.joint import worth_running
from moesaic.spec.memory import MemoryTiming, sustained_bytes


@dataclass(frozen=True)
class ExpertFacts:
    """Tokens of every expert in the first frame that the compiler measured."""

    short: str
    tokens: list[int]
    flips: float | None
    """Share of tokens whose experts differ from those of the float model, if it is known."""


@dataclass(frozen=True)
class PointFacts:
    """One quantised point; ``decibels`` with it rounded and nothing else, if that was measured."""

    name: str
    layer: str
    kind: str
    bits: int
    maximum: float
    clip: float
    clipped: float
    decibels: float | None


@dataclass(frozen=True)
class TaskFacts:
    """One task. Bytes, cycles and milliseconds are of one frame."""

    name: str
    graph: IntGraph
    outputs: dict[str, tuple[int, ...]]
    estimate: Estimate
    figures: TaskFigures
    macs: int
    milliseconds: float
    frames_per_second: float
    roofline_milliseconds: float
    energy: Energy | None
    """By the model; None where no figures are public."""
    dram_bytes: int
    gigabytes_per_second: float
    layers: list[LayerFacts]
    experts: list[ExpertFacts]
    points: list[PointFacts]
    losses: list[Loss]
    """The three largest."""
    activation_bytes: int
    """Of the scratchpad, at the most."""


@dataclass(frozen=True)
class JointFacts:
    """A program of several tasks or frames. Cycles are of all of them together, ``alone_cycles``
    of single frames one by one."""

    name: str
    estimate: Estimate
    alone_cycles: int
    common_layers: int
    """That all tasks have in common, of ``layers``."""
    layers: int
    used: bool
    """Whether an accelerator takes it: no other way is as fast."""


@dataclass(frozen=True)
class Facts:
    """A bundle at a clock, behind a memory."""

    name: str
    arch: ArchConfig
    clock: Clock
    memory: MemoryTiming
    weight_bytes: int
    """Of the image, which all tasks share."""
    tasks: dict[str, TaskFacts]
    joint: list[JointFacts]

    @property
    def peak_gigabytes_per_second(self) -> float:
        """What the weight ports can read."""
        return self.clock.gigabytes_per_second(self.arch.line_bytes)

    @property
    def sustained_gigabytes_per_second(self) -> float:
        """What the cycles assume of DRAM."""
        share = self.memory.bandwidth_share
        return self.clock.gigabytes_per_second(sustained_bytes(self.arch, share))


def gather_facts(
    bundle: Bundle,
    estimates: Mapping[str, Estimate],
    figures: Mapping[str, TaskFigures],
    memory: MemoryTiming,
    clock: Clock,
    *,
    joint: Mapping[str, Estimate] | None = None,
    decibels: Mapping[str, Mapping[str, float | None]] | None = None,
) -> Facts:
    """All figures of a bundle.

    Parameters
    ----------
    bundle
        What the page is about.
    estimates, figures
        By task: the cost model's, and what the bundle's report says.
    memory
        That of the estimates.
    clock
        Turns cycles into time.
    joint
        The cost model's figures of the bundle's programs of several tasks or frames, by name.
    decibels
        By task and point, what `moesaic accuracy` has measured.
    """
    tasks = {
        task: _task(
            bundle,
            task,
            estimates[task],
            figures[task],
            memory,
            clock,
            (decibels or {}).get(task, {}),
        )
        for task in bundle.graphs
    }
    name = bundle.path.resolve().name
    used = worth_running(bundle.joint, bundle.program_cycles)
    programs = [
        _joint(bundle, program, estimate, estimates, program in used)
        for program, estimate in (joint or {}).items()
    ]
    return Facts(name, bundle.arch, clock, memory, len(bundle.weights), tasks, programs)


def _joint(
    bundle: Bundle, name: str, estimate: Estimate, alone: Mapping[str, Estimate], used: bool
) -> JointFacts:
    entry = bundle.joint[name]
    work = Joint(tuple(bundle.graphs[task] for task in entry.tasks), entry.frames)
    cycles = entry.frames * sum(alone[task].cycles for task in entry.tasks)
    return JointFacts(name, estimate, cycles, work.common, len(work.graph.layers), used)


def _task(
    bundle: Bundle,
    task: str,
    estimate: Estimate,
    figures: TaskFigures,
    memory: MemoryTiming,
    clock: Clock,
    decibels: Mapping[str, float | None],
) -> TaskFacts:
    graph, arch = bundle.graphs[task], bundle.arch
    layers = layer_facts(graph, estimate, arch)
    milliseconds = clock.milliseconds(estimate.cycles)
    dram_bytes = estimate.weight_bytes + estimate.data_bytes
    flips = figures.quantisation.routing_flips
    names = [layer.name for layer in graph.layers]
    return TaskFacts(
        name=task,
        graph=graph,
        outputs=bundle.outputs(task),
        estimate=estimate,
        figures=figures,
        macs=graph.macs,
        milliseconds=milliseconds,
        frames_per_second=1e3 / milliseconds,
        roofline_milliseconds=clock.milliseconds(estimate.roofline_cycles),
        energy=estimated_energy(arch, clock, estimate),
        dram_bytes=dram_bytes,
        gigabytes_per_second=clock.gigabytes_per_second(dram_bytes, estimate.cycles),
        layers=layers,
        experts=[
            ExpertFacts(_body(layers)[names.index(layer)].short, tokens, flips.get(layer))
            for layer, tokens in figures.routing.items()
        ],
        points=[
            _point(name, point, layers, decibels.get(name, decibels.get(layer_point(name))))
            for name, point in sorted(figures.quantisation.points.items(), key=_place)
        ],
        losses=find_losses(layers, estimate, arch, memory, clock),
        activation_bytes=bundle.tasks[task].activation_words * arch.depth,
    )


def _place(point: tuple[str, PointFigures]) -> tuple[int, ...]:
    """Order of points: input, residual, layers by number, and the head's."""
    first = point[0].partition(".")[0]
    if first.isdigit() and len(first) < 5:
        return (1, int(first))
    return (0,) if first in ("input", "residual") else (2,)


def _body(layers: list[LayerFacts]) -> list[LayerFacts]:
    """The layers of the stream."""
    return [layer for layer in layers if layer.kind not in ("embed", "head")]


def _point(
    name: str, figures: PointFigures, layers: list[LayerFacts], decibels: float | None
) -> PointFacts:
    """A point with its layer: they are named by number, and those at the ends by what they are."""
    first, _, _ = name.partition(".")
    body = _body(layers)
    number = int(first) if first.isdigit() and len(first) < 5 else -1
    if 0 <= number < len(body):
        layer = body[number].short
    elif first.startswith(("head", "output")):
        layer = first.replace("output", "head")
    else:
        layer = {"input": layers[0].short, "residual": "all layers"}.get(first, layers[-1].short)
    kind = name.rpartition(".")[2]
    return PointFacts(
        name, layer, kind, figures.bits, figures.maximum, figures.clip, figures.clipped, decibels
    )
