"""What a user chooses of a file: some of its outputs, numbers for its symbolic dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx

from moesaic.compiler.frontend.nodes import reads
from moesaic.compiler.ir import Choice, Graph
from moesaic.spec.errors import UserError


def read_choices(
    tasks: Iterable[str],
    dims: Mapping[str, int] | None = None,
    outputs: Mapping[str, str | Sequence[str]] | None = None,
) -> dict[str, Choice]:
    """What is chosen of each task's model.

    Raises
    ------
    UserError
        A dimension is no size, or an output is of no task or named twice.
    """
    sizes = dict(dims or {})
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"dimension {name!r} must be a number from 1 on, not {size!r}")
    names, chosen = list(tasks), dict(outputs or {})
    if unknown := sorted(set(chosen) - set(names)):
        raise UserError(
            f"an output is chosen for the task {unknown[0]!r}, but there are only"
            f" {', '.join(names)}"
        )
    wanted = {task: (of,) if isinstance(of, str) else tuple(of) for task, of in chosen.items()}
    for task, several in wanted.items():
        if len(set(several)) < len(several):
            raise UserError(f"an output of task {task!r} is chosen twice: name each once")
    return {name: Choice(sizes, wanted.get(name, ())) for name in names}


def check_dims(choices: Iterable[Choice], graphs: Iterable[Graph]) -> None:
    """Refuse a dimension that is none of any model: a misspelt one would be ignored.

    Raises
    ------
    UserError
        There is one.
    """
    given = {name for choice in choices for name in choice.dims}
    used = {name for graph in graphs for name in graph.choice.dims}
    if unused := sorted(given - used):
        raise UserError(
            f"no input has a symbolic dimension {unused[0]!r} behind its first one, which is the"
            " batch: leave it out"
        )


def choose_outputs(model: onnx.ModelProto, choice: Choice, path: str | Path) -> None:
    """Leave the chosen outputs in a model, and the nodes that they need, in place.

    Raises
    ------
    UserError
        There is no such output.
    """
    outputs = {value.name: value for value in model.graph.output}
    for name in choice.outputs:
        if name not in outputs:
            names = ", ".join(map(repr, outputs)) or "none"
            raise UserError(f"{path} has no output {name!r}, only {names}")
    if not choice.outputs or len(choice.outputs) == len(outputs):
        return
    del model.graph.output[:]
    model.graph.output.extend(value for n, value in outputs.items() if n in choice.outputs)
    wanted, kept = set(choice.outputs), []
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(reads(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))


def label(dimension: onnx.TensorShapeProto.Dimension, index: int) -> str:
    """Return what a symbolic dimension is called: by its place where it has no name."""
    return str(dimension.dim_param or index)


def set_dimensions(model: onnx.ModelProto, choice: Choice) -> dict[str, int]:
    """Give the inputs' symbolic dimensions behind the first the numbers chosen, in place.

    Returns
    -------
    Those numbers that were of use, by name.
    """
    used: dict[str, int] = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        for index, dimension in enumerate(value.type.tensor_type.shape.dim):
            name = label(dimension, index)
            if index and not dimension.HasField("dim_value") and name in choice.dims:
                dimension.dim_value = used[name] = choice.dims[name]
    return used
