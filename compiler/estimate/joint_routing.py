"""Tokens of each expert where several tasks or frames are computed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesaic.compiler.schedule.joint import Joint
from moesaic.spec.errors import UserError

Routing = Mapping[str, Mapping[str, Sequence[int]]]
"""Task to layer to the tokens of each expert in one frame."""


def joint_routing(work: Joint, routing: Routing) -> dict[str, list[int]]:
    """Tokens of each expert in all frames and tasks, by the first task's layer names: of layers
    that have been measured in all tasks that have rows of their own."""
    found = {}
    for number, layer in enumerate(work.graph.layers):
        graphs = work.graphs if number >= work.common else (work.graph,)
        each = [
            routing[graph.task][graph.layers[number].name]
            for graph in graphs
            if graph.layers[number].name in routing.get(graph.task, {})
        ]
        if len(each) < len(graphs):
            continue
        found[layer.name] = [work.frames * sum(counts) for counts in zip(*each, strict=True)]
    return found


def given_routing(
    work: Joint, name: str, routing: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """As :func:`joint_routing`, of what a user gives: ``TASK/LAYER`` to the tokens of one frame, of
    all tasks that have rows of their own there; or ``LAYER``, also behind the ``name`` of the
    program, to those of all frames and tasks.

    Raises
    ------
    UserError
        A layer of one task is given, and not that of another.
    """
    by_task: dict[str, dict[str, Sequence[int]]] = {graph.task: {} for graph in work.graphs}
    whole = {}
    for key, counts in routing.items():
        task = next((task for task in by_task if key.startswith(f"{task}/")), None)
        if task is not None:
            by_task[task][key.removeprefix(f"{task}/")] = counts
        else:
            whole[key.removeprefix(f"{name}/")] = list(counts)
    found = joint_routing(work, by_task)
    known = {
        graph.layers[number].name: layer.name
        for graph in work.graphs
        for number, layer in enumerate(work.graph.layers)
    }
    for task, layers in by_task.items():
        for layer in layers:
            if known.get(layer, layer) not in found and layer in known:
                raise UserError(
                    f"the routing of {task}/{layer} needs that of {', '.join(by_task)} beside it:"
                    f" all of {name} have rows of their own there"
                )
            if layer not in known:  # refused by name where layers are looked up
                whole[f"{task}/{layer}"] = list(layers[layer])
    return found | whole
