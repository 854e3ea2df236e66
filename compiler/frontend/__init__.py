"""ONNX in, `ir.Graph` out: see `load_graph`."""

from __future__ import annotations

from pathlib import Path

from moesaic.compiler import ir
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.recognise import read_embedding, read_head, read_layers
from moesaic.compiler.frontend.trace import trace
from moesaic.compiler.frontend.views import NotRecognised
from moesaic.spec.errors import UserError


def load_graph(path: str | Path, task: str = "default") -> ir.Graph:
    """Read a vision transformer from an ONNX file.

    What is recognised depends on what the graph computes, not on names or on how an exporter
    writes it: layout operators in any order, constants on either side, GELU and LayerNorm as
    nodes or as arithmetic, mixtures of experts as a loop over experts or as com.microsoft.MoE.

    Parameters
    ----------
    path
        ONNX file of opset 17 to 23; external data beside it.
    task
        Name of the task, for messages.

    Raises
    ------
    UserError
        The file is no such model; the message names the node, input or initializer.
    """
    graph = read_model(path)
    arena, source, output, notes = trace(graph)
    where = f"task {task!r}, {path}: head"
    try:
        head, state = read_head(arena, output)
        where = f"task {task!r}, {path}"
        layers, state = read_layers(arena, state, notes)
        where = f"task {task!r}, {path}: patch embedding"
        embed = read_embedding(arena, state, source)
    except NotRecognised as error:
        raise UserError(f"{where}: {error}") from error
    except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Recognition met something nobody thought of: still no traceback for the user.
        raise UserError(
            f"{where}: the graph is no vision transformer that is supported ({error!r}): "
            "compare it with the reference model's export"
        ) from error
    return ir.Graph(
        source=str(path),
        input_name=graph.input_name,
        input_shape=graph.input_shape,
        output_name=graph.output_name,
        output_shape=output.shape,
        embed=embed,
        layers=layers,
        head=head,
        notes=_summarise(notes),
    )


def _summarise(notes: list[Note]) -> list[str]:
    """Return one line per kind of note, naming the first node."""
    nodes: dict[str, list[str]] = {}
    for text, node in notes:
        nodes.setdefault(text, []).append(node)
    return [
        f"{text}: {first}" + (f" and {len(more)} more" if more else "")
        for text, (first, *more) in nodes.items()
    ]
