"""Estimates of whole models: from integer graphs, or from an ONNX file and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.repeat import Blocks, repeat_blocks
from moesaic.compiler.estimate.shapes import ShapeImage, shape_graph, with_few_bits
from moesaic.compiler.estimate.task import Estimate, check_routing, estimate
from moesaic.compiler.estimate.tuning import choose_schedule, naming_a_preset
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.choose import check_dims
from moesaic.compiler.ir import Choice
from moesaic.compiler.quant.weight_bits import WeightBits
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, stored_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.intgraph import IntGraph, IntMoe

Routing = Mapping[str, Sequence[int]]
"""Layer name, or ``task/layer name``, to the number of tokens that each expert gets."""


def estimate_graphs(
    works: Mapping[str, IntGraph | Joint],
    arch: ArchConfig,
    *,
    routing: Routing | None = None,
    memory: Memory | None = None,
    image: WeightImage | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    shares: Sequence[float] = (),
) -> dict[str, Estimate]:
    """Lower every task for ``arch`` and estimate one frame of it, or all that is computed together.

    Parameters
    ----------
    works
        Name to integer graph, or to what is computed together, in the order in which the weight
        image is laid out. Cycles and bytes are those of all frames and tasks of one.
    arch
        Sizes; need not be those that the graphs were compiled for.
    routing
        Layers that are not named route equally to all experts.
    memory
        External memory; by default that of reported figures.
    image
        Where segments are placed; by default a real image, which stores equal ones once.
    schedules
        Task name to schedule; of others what :func:`choose_schedule` finds.
    shares
        As :func:`~moesaic.compiler.estimate.task.estimate`: programs are the same for all.

    Raises
    ------
    UserError
        A model does not fit ``arch``, or ``routing`` does not fit the models.
    """
    routing = routing or {}
    names = {
        task: [layer.name for layer in graph.layers if isinstance(layer, IntMoe)]
        for task, graph in ((task, Joint.of(work).graph) for task, work in works.items())
    }
    plain = {name for known in names.values() for name in known}
    precise = {f"{task}/{name}" for task, known in names.items() for name in known}
    check_routing(plain | precise if precise & routing.keys() else plain, routing)
    image = image or WeightImage(arch)
    result = {}
    for task, work in works.items():
        mine = {name: routing[name] for name in names[task] if name in routing}
        mine |= {
            name: routing[f"{task}/{name}"] for name in names[task] if f"{task}/{name}" in routing
        }
        if schedules and task in schedules:
            schedule = schedules[task]
        else:
            schedule = choose_schedule(work, arch, memory=memory)
        result[task] = estimate(
            compile_task(work, arch, image, schedule).steps,
            arch,
            Joint.of(work).macs,
            routing=mine,
            memory=memory,
            shares=shares,
        )
    return result


def shapes_of_onnx(
    path: str | Path, *, partition: bool | None = None, choice: Choice | None = None
) -> dict[str, IntGraph]:
    """The model of an ONNX file as the task ``default``, with sizes and without values.

    ``partition`` and ``choice`` as :func:`~moesaic.compiler.frontend.load_graph` has them.

    Raises
    ------
    UserError
        The file holds no supported model.
    """
    graph = load_graph(path, partition=partition, choice=choice)
    check_dims([choice] if choice else [], [graph])
    return {"default": shape_graph(graph)}


def deeper_shapes_of_onnx(
    path: str | Path, blocks: Blocks, *, partition: bool | None = None, choice: Choice | None = None
) -> tuple[dict[str, IntGraph], dict[str, IntGraph]]:
    """The model of an ONNX file of its first blocks, as it is and with as many as are meant.

    As :func:`shapes_of_onnx` gives it; a schedule that is good for the first is for the second.

    Raises
    ------
    UserError
        The file holds no supported model, or no equal blocks.
    """
    graph = load_graph(path, partition=partition, choice=choice)
    check_dims([choice] if choice else [], [graph])
    deeper = repeat_blocks(graph, blocks)
    return {"default": shape_graph(graph)}, {"default": shape_graph(deeper)}


def estimate_bundle(
    bundle: Bundle,
    arch: ArchConfig | None = None,
    *,
    routing: Routing | None = None,
    memory: Memory | None = None,
    frames: int = 1,
    shares: Sequence[float] = (),
) -> dict[str, Estimate]:
    """Estimate the tasks of a bundle as they were compiled.

    Parameters
    ----------
    bundle
        With the schedules and the routing that the compiler has reported.
    arch
        Another target than the bundle's own; its schedules are chosen anew.
    routing
        Instead of the reported one.
    memory, frames, shares
        As :func:`estimate_graphs`. Of several frames, experts get as many times the tokens, and
        schedules are chosen anew.

    Raises
    ------
    UserError
        As :func:`estimate_graphs`.
    """
    reports = bundle.report["tasks"]
    if routing is None:
        routing = {
            f"{task}/{layer}": tokens
            for task, report in reports.items()
            for layer, tokens in report["routing"].items()
        }
    schedules = {
        task: stored_schedule(bundle.arch, report["schedule"], str(bundle.path))
        for task, report in reports.items()
    }
    own = frames == 1 and arch in (None, bundle.arch)
    routing = {name: [frames * count for count in rows] for name, rows in routing.items()}
    return estimate_graphs(
        {task: Joint((graph,), frames) for task, graph in bundle.graphs.items()},
        arch or bundle.arch,
        routing=routing,
        memory=memory,
        schedules=schedules if own else None,
        shares=shares,
    )


def estimate_onnx(
    path: str | Path,
    arch: ArchConfig,
    *,
    partition: bool | None = None,
    choice: Choice | None = None,
    routing: Routing | None = None,
    memory: Memory | None = None,
    frames: int = 1,
    weights: WeightBits | None = None,
    shares: Sequence[float] = (),
) -> dict[str, Estimate]:
    """Estimate the model of an ONNX file as the task ``default``, without calibration.

    The accelerator's part of it where it does not take the whole: ``partition`` and ``choice`` as
    :func:`~moesaic.compiler.frontend.load_graph` has them. ``weights`` are their bits, 8 throughout
    without it; there is nothing here to choose them by.

    Raises
    ------
    UserError
        The file holds no supported model, or as :func:`estimate_graphs`.
    """
    bits = weights or WeightBits()
    bits.check(arch)
    graphs = shapes_of_onnx(path, partition=partition, choice=choice)
    works = {
        task: Joint((with_few_bits(graph, *bits.certain),), frames)
        for task, graph in graphs.items()
    }
    with naming_a_preset(works["default"]):
        return estimate_graphs(
            works, arch, routing=routing, memory=memory, image=ShapeImage(arch), shares=shares
        )
