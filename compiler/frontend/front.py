"""Where a graph begins on the accelerator when the host computes the front of it.

The tensor is the residual stream: one through which every path from the input to the output passes,
[1, tokens, channels], and from which on everything is recognised as if it were the input. Of
several the first is taken, so that as little as possible is left to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnx import checker, shape_inference

from moesaic.compiler import ir
from moesaic.compiler.frontend.boundary import find_boundary, read_backbone
from moesaic.compiler.frontend.cut import UNREADABLE, Backbone, common_tensors
from moesaic.compiler.frontend.host_macs import count_macs
from moesaic.compiler.frontend.host_part import (
    FLOATS,
    extract,
    extract_host_part,
    host_nodes,
    refuse_random,
    with_constants,
)
from moesaic.compiler.frontend.load import OnnxGraph
from moesaic.compiler.frontend.nodes import first_output, node_name, reads
from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.trace import Trace, trace
from moesaic.compiler.frontend.views import MOST_ELEMENTS, NotRecognised, TooLarge, View
from moesaic.spec.errors import UserError

IN_FRONT = "it comes before the residual stream that the accelerator is given"


class Front:
    """A graph that begins at an inner tensor.

    Attributes
    ----------
    traced
        What follows the tensor, which is its input.
    backbone, tail
        What the accelerator computes of it, and what the host does behind.
    """

    def __init__(self, traced: Trace, backbone: Backbone, tail: ir.HostPart | None) -> None:
        self.traced, self.backbone, self.tail = traced, backbone, tail


def find_front(whole: Trace) -> Front | None:
    """Return the graph that leaves the least to the host in front, None if there is none."""
    try:
        model = with_constants(whole)
        candidates = list(_candidates(whole, model))
    except Exception:  # onnx infers no types of a malformed model, which is refused for its node
        return None
    for name, shape in candidates:
        begun = _begin_at(whole, model, name, shape)
        if begun is None:
            continue
        try:
            traced = trace(begun)
            backbone, tail = _read(traced)
        except TooLarge:
            return None
        except (UserError, *UNREADABLE):
            continue
        layers = [layer for layer in backbone.layers if not isinstance(layer, ir.Renorm)]
        if layers and isinstance(backbone.embed, ir.Tokens):
            return Front(traced, backbone, tail)
    return None


def extract_front(whole: Trace, front: Front, why: str) -> ir.HostFront:
    """Return everything in front of the stream as a model of its own.

    Parameters
    ----------
    whole
        The file.
    front
        Of it.
    why
        The sentence that refuses to take all of it.

    Raises
    ------
    NotRecognised
        The front draws random numbers or is no valid ONNX.
    """
    name, tensor = whole.graph.input_name, front.traced.graph.input_name
    try:
        model = extract(whole, [name], [tensor])
        rest = extract(front.traced, [tensor], whole.graph.output_names)
        for part in (model, rest):
            checker.check_model(part, full_check=True)
    except Exception as error:  # whatever onnx finds wrong with a model that a user hands in
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRecognised(f"what precedes {tensor!r} is no valid ONNX ({reason})") from error
    refuse_random(model)
    if any(value.type.tensor_type.elem_type not in FLOATS for value in model.graph.output):
        raise NotRecognised(f"{tensor!r}, the residual stream, must hold floats")
    behind = host_nodes(front.traced, [])
    inside = {node.output[0] for node in model.graph.node}
    nodes = [
        _place(whole, node) for node in host_nodes(whole, []) if not inside.isdisjoint(node.output)
    ]
    return ir.HostFront(
        input_name=name,
        input_shape=whole.graph.input_shape,
        model=model.SerializeToString(deterministic=True),
        rest=rest.SerializeToString(deterministic=True),
        outputs=list(whole.graph.output_names),
        why=why,
        nodes=nodes,
        macs=count_macs(model),
        nodes_behind=len(behind) - (len(front.tail.nodes) if front.tail else 0),
    )


def describe_front(front: ir.HostFront, share: float) -> list[Note]:
    """Return the notes that say what goes to the host, why, and how little it is."""
    what = (
        f"in front, on the host without --partition, with at most {share:.2%} of the"
        f" multiply-accumulates ({front.why})"
    )
    return [(what, f"node {node.name!r} ({node.operator})") for node in front.nodes]


def _read(traced: Trace) -> tuple[Backbone, ir.HostPart | None]:
    """Read a whole graph, or one whose tail is left to the host."""
    try:
        return read_backbone(traced, list(traced.graph.output_names)), None
    except (UserError, *UNREADABLE):
        backbone = find_boundary(traced)
        tensors = [head.tensor for head in backbone.heads]
        return backbone, extract_host_part(traced, tensors)


def _candidates(whole: Trace, folded: onnx.ModelProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of the form of a residual stream that all paths pass through, the first one first."""
    model = onnx.ModelProto()
    model.CopyFrom(folded)
    for value in model.graph.input:
        if value.name == whole.graph.input_name:
            del value.type.tensor_type.shape.dim[:]
            for length in whole.graph.input_shape:
                value.type.tensor_type.shape.dim.add().dim_value = length
    shapes: dict[str, tuple[int, ...]] = {}
    for value in shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else 0 for d in dims)
    first, *others = (common_tensors(whole, output) for output in whole.graph.output_names)
    for name in reversed(first[1:]):
        if not all(name in other for other in others):
            continue
        known = whole.values.get(name)
        shape = known.shape if isinstance(known, View) else shapes.get(name, ())
        # A batch that ONNX loses sight of is that of the input; `check_front` compares values.
        is_stream = len(shape) == 3 and shape[0] in (0, 1) and min(shape[1:]) > 1
        if is_stream and prod(shape[1:]) <= MOST_ELEMENTS:
            yield name, (1, *shape[1:])


def _begin_at(
    whole: Trace, folded: onnx.ModelProto, name: str, shape: tuple[int, ...]
) -> OnnxGraph | None:
    """The graph behind a tensor, None where it reads something else of the front."""
    graph = whole.graph
    if name == graph.input_name:
        return None
    stored = {tensor.name for tensor in folded.graph.initializer}
    constants = {
        other: np.asarray(value)
        for other, value in whole.values.items()
        if other in stored and not isinstance(value, View)
    }
    nodes: list[onnx.NodeProto] = []
    wanted = set(graph.output_names)
    for node in reversed(folded.graph.node):
        needed = [n for n in node.output if n in wanted and n != name and n not in constants]
        if needed:
            nodes.append(node)
            wanted.update(reads(node))
    if graph.input_name in wanted:
        return None
    return replace(
        graph,
        model=folded,
        input_name=name,
        input_shape=shape,
        nodes=nodes[::-1],
        constants=constants,
    )


def _place(whole: Trace, node: onnx.NodeProto) -> ir.HostNode:
    refusal = whole.refused.get(first_output(node))
    reason = IN_FRONT if refusal is None else refusal.reason
    return ir.HostNode(node_name(node), node.op_type, reason)
