"""Running an ONNX graph on views, node by node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.algebra import Algebra, Value
from moesaic.compiler.frontend.composite import COMPOSITES
from moesaic.compiler.frontend.load import OnnxGraph, attribute_constant, describe, node_name
from moesaic.compiler.frontend.operators import OPERATORS, Call, Note
from moesaic.compiler.frontend.views import Arena, Input, NotRecognised, View
from moesaic.spec.errors import UserError

HOST = "cut the graph there and compute it on the host"
DATA_DEPENDENT = (
    "its result's shape or place depends on the data: export mixtures of experts as a loop over "
    "all experts or as com.microsoft.MoE"
)
ADVICE = {
    "AveragePool": HOST,
    "BatchNormalization": "fold it into the layer before it",
    "ConvTranspose": HOST,
    "GatherND": DATA_DEPENDENT,
    "Gather": DATA_DEPENDENT,
    "GatherElements": DATA_DEPENDENT,
    "If": "export the model without control flow",
    "Loop": "export the model without control flow",
    "MaxPool": HOST,
    "NonZero": DATA_DEPENDENT,
    "Resize": HOST,
    "Scan": "export the model without control flow",
    "ScatterND": DATA_DEPENDENT,
    "Upsample": HOST,
}
"""What to do about an operator that nothing here supports."""
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")


def trace(graph: OnnxGraph) -> tuple[Arena, Input, View, list[Note]]:
    """Run a graph; returns the arena, the input, the output and notes for reports.

    Raises
    ------
    UserError
        An operator that is not supported, or one whose inputs make no sense.
    """
    arena = Arena()
    algebra = Algebra(arena)
    size = int(np.prod(graph.input_shape))
    source = Input(f"input {graph.input_name!r}", graph.input_name, size)
    arena.add(source)
    values: dict[str, Value] = dict(graph.constants)
    values[graph.input_name] = arena.view(source, graph.input_shape)
    notes: list[Note] = []
    for node in graph.nodes:
        algebra.node, algebra.name = describe(node), node_name(node)
        try:
            inputs = [values[name] if name else None for name in node.input]
            results = _run(algebra, node, inputs, graph, notes)
        except UserError:
            raise
        except NotRecognised as error:
            raise UserError(
                f"{describe(node)} of {graph.path} is not supported: {error}"
            ) from error
        except Exception as error:  # a malformed node can fail anywhere; the user needs its name
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{describe(node)} of {graph.path} is not valid ({reason}): check the export"
            ) from error
        values.update(zip(node.output, results, strict=False))
    output = values.get(graph.output_name)
    if not isinstance(output, View):
        raise UserError(
            f"output {graph.output_name!r} of {graph.path} must depend on input "
            f"{graph.input_name!r}, but it is constant"
        )
    return arena, source, output, notes


def _run(
    algebra: Algebra,
    node: onnx.NodeProto,
    inputs: list[Value | None],
    graph: OnnxGraph,
    notes: list[Note],
) -> list[Value]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    has_subgraph = any(attribute.HasField("g") for attribute in node.attribute)
    arrays = [value for value in inputs if not isinstance(value, View)]
    if domain == "" and not has_subgraph and node.op_type not in RANDOM:
        if node.op_type == "Constant":
            stored = attribute_constant(node, graph.path)
            if stored is not None:
                return [stored]
        if len(arrays) == len(inputs):
            _check_signature(node, graph.opsets[""])
            return list(layout.evaluate(node, arrays, graph.opsets))
        if layout.is_layout(node, inputs):
            _check_signature(node, graph.opsets[""])
            return layout.move(node, inputs, graph.opsets)
    handler = COMPOSITES.get((domain, node.op_type))
    if handler is None and domain == "":
        handler = OPERATORS.get(node.op_type)
    if handler is None:
        advice = ADVICE.get(node.op_type, HOST)
        operator = f"{domain}.{node.op_type}" if domain else node.op_type
        raise UserError(
            f"{describe(node)} of {graph.path} is not supported on the accelerator: "
            f"there is no unit for {operator}; {advice}"
        )
    if domain == "":
        _check_signature(node, graph.opsets[""])
    attributes = {a.name: _decode(helper.get_attribute_value(a)) for a in node.attribute}
    return handler(Call(algebra, node, inputs, attributes, graph.opsets[""], notes))


def _check_signature(node: onnx.NodeProto, opset: int) -> None:
    """Refuse a standard operator with too few or too many inputs, or with foreign attributes."""
    if not onnx.defs.has(node.op_type, opset):
        return
    schema = onnx.defs.get_schema(node.op_type, opset)
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise NotRecognised(
            f"it must have {schema.min_input} to {schema.max_input} inputs, not {len(node.input)}"
        )
    given = {attribute.name for attribute in node.attribute}
    required = {name for name, entry in schema.attributes.items() if entry.required}
    if wrong := sorted((given - set(schema.attributes)) | (required - given)):
        raise NotRecognised(f"attribute {wrong[0]!r} does not fit opset {opset}")


def _decode(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
