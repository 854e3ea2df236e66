"""Running an ONNX graph on views, node by node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.algebra import Algebra, Value
from moesaic.compiler.frontend.dynamic import Sizes
from moesaic.compiler.frontend.floats import ROUNDED
from moesaic.compiler.frontend.given import note_rounding
from moesaic.compiler.frontend.load import OnnxGraph, attribute_constant
from moesaic.compiler.frontend.nodes import (
    describe,
    first_output,
    node_name,
    reads,
    standard_domain,
)
from moesaic.compiler.frontend.operators import OPERATORS, Call, Note
from moesaic.compiler.frontend.opset import AHEAD, is_ahead
from moesaic.compiler.frontend.types import Types
from moesaic.compiler.frontend.views import Arena, Input, NotRecognised, View
from moesaic.spec.activations import ACTIVATIONS
from moesaic.spec.errors import UserError

HOST = "cut the graph there and compute it on the host"
FIXED_SIZE = (
    "it reads as many tokens as a mask lists, but has the size that the sample at the export gave: "
    "export with dynamo=True"
)
INTEGERS = "quantise the float model with quant_format=QuantFormat.QDQ and quantize_static"
ADVICE = {
    **dict.fromkeys(
        (
            "ConvInteger",
            "DynamicQuantizeLinear",
            "DynamicQuantizeMatMul",
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "QAttention",
            "QGemm",
            "QLinearAdd",
            "QLinearConv",
            "QLinearMatMul",
        ),
        INTEGERS,
    ),
    **dict.fromkeys(
        ("Celu", "Elu", "LeakyRelu", "Mish", "PRelu", "Selu", "Softplus", "Softsign"),
        f"as activation only {', '.join(ACTIVATIONS)} are known; train the model with one of them",
    ),
    "AveragePool": HOST,
    "BatchNormalization": "fold it into the layer before it",
    "ConvTranspose": HOST,
    "If": "export the model without control flow",
    "Loop": "export the model without control flow",
    "MaxPool": HOST,
    "Resize": HOST,
    "Scan": "export the model without control flow",
    "Upsample": HOST,
}
"""What to do about an operator that nothing here supports."""
FOREIGN_ADVICE = {
    "com.microsoft.nchwc": "it is laid out for one processor; save the optimised model at "
    "ORT_ENABLE_EXTENDED, or give the model that it was made from",
}
"""The same for all operators of a domain."""
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


@dataclass
class Trace:
    """What became of every value of a graph.

    Attributes
    ----------
    values
        Constants and views by name; what no unit can compute is missing.
    refused
        Nodes that cannot be traced, by their first output, in the file's order, and why. Nodes
        that read what those make are not among them.
    notes
        For reports.
    """

    graph: OnnxGraph
    arena: Arena
    source: Input
    values: dict[str, Value]
    refused: dict[str, Refusal] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def outputs(self) -> dict[str, View]:
        """Return the graph's outputs by name.

        Raises
        ------
        UserError
            A node cannot be traced, or an output does not depend on the input.
        """
        graph = self.graph
        for refusal in self.refused.values():
            raise UserError(refusal.sentence)
        outputs = {}
        for name in graph.output_names:
            output = self.values[name]
            if not isinstance(output, View):
                raise UserError(
                    f"output {name!r} of {graph.path} must depend on input "
                    f"{graph.input_name!r}, but it is constant: leave it out by --model-output"
                )
            outputs[name] = output
        return outputs


@dataclass(frozen=True)
class Refusal:
    """A node that the accelerator has no place for.

    ``reason`` alone is for tables, ``sentence`` also names the node and says what to do.
    """

    node: str
    reason: str
    sentence: str


class _NoUnit(NotRecognised):
    """No unit for an operator; ``advice`` says what to do."""

    def __init__(self, operator: str, advice: str) -> None:
        super().__init__(f"there is no unit for {operator}")
        self.advice = advice


def trace(graph: OnnxGraph) -> Trace:
    """Run a graph on views as far as possible.

    Raises
    ------
    UserError
        A constant is not finite.
    """
    arena = Arena(graph.quantisation.weights)
    algebra = Algebra(arena)
    size = int(np.prod(graph.input_shape))
    read = {*graph.output_names, *(name for node in graph.nodes for name in reads(node))}
    source = Input(f"input {graph.input_name!r}", graph.input_name, size)
    arena.add(source)
    traced = Trace(graph, arena, source, dict(graph.constants), notes=list(graph.notes))
    traced.values[graph.input_name] = arena.view(source, graph.input_shape)
    _note_roundings(traced, [graph.input_name])
    if graph.input_name in graph.rounded:
        traced.notes.append((ROUNDED, source.node))
    types, sizes = Types(graph), Sizes()
    untraced: set[str] = set()
    for node in graph.nodes:
        if not untraced.isdisjoint(reads(node)):
            untraced.update(node.output)
            continue
        algebra.node, algebra.name = describe(node), node_name(node)
        try:
            inputs = [traced.values[name] if name else None for name in node.input]
            sizes.check(node, traced.values)
            unknown = sizes.settle(node, inputs, arena)
            results = _run(algebra, node, inputs, types, graph)
            made = {
                name: value
                for name, value in zip(node.output, results, strict=False)
                if value is not None
            }
            surplus = {name for name in node.output if name and name not in made} & read
            if surplus:
                raise NotRecognised(f"its output {min(surplus)!r} is not supported")
        except UserError:
            raise
        except Exception as error:  # a malformed node can fail anywhere; the user needs its name
            if sizes.is_unknown(node) and not isinstance(error, NotRecognised):
                error = NotRecognised(FIXED_SIZE)
            traced.refused[first_output(node)] = _refusal(node, error, graph.path)
            untraced.update(node.output)
        else:
            traced.values.update(made)
            sizes.note(node, made.items(), unknown)
            _note_roundings(traced, made)
            if graph.rounded.intersection(node.output) and isinstance(results[0], View):
                traced.notes.append((ROUNDED, describe(node)))
    return traced


def _note_roundings(traced: Trace, names: Iterable[str]) -> None:
    """Remember which of these values the file rounds."""
    for name in names:
        value = traced.values[name]
        quantiser = traced.graph.quantisation.activations.get(name)
        if quantiser is not None and isinstance(value, View):
            note_rounding(traced.arena, value, quantiser)


def _refusal(node: onnx.NodeProto, error: Exception, path: str) -> Refusal:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    what = f"{describe(node)} of {path}"
    if isinstance(error, _NoUnit):
        sentence = f"{what} is not supported on the accelerator: {reason}; {error.advice}"
    elif isinstance(error, NotRecognised):
        sentence = f"{what} is not supported: {reason}"
    else:
        sentence = f"{what} is not valid ({reason}): check the export"
    return Refusal(describe(node), reason, sentence)


def _run(
    algebra: Algebra,
    node: onnx.NodeProto,
    inputs: list[Value | None],
    types: Types,
    graph: OnnxGraph,
) -> Sequence[Value | None]:
    domain = standard_domain(node)

    def check() -> None:
        if domain == "":
            _check_signature(node, graph.opsets[""])
        types.infer(node, inputs)

    has_subgraph = any(attribute.HasField("g") for attribute in node.attribute)
    arrays = [value for value in inputs if not isinstance(value, View)]
    if domain == "" and not has_subgraph and node.op_type not in RANDOM:
        if node.op_type == "Constant":
            stored = attribute_constant(node, graph.path)
            if stored is not None:
                check()
                return [stored]
        if len(arrays) == len(inputs):
            check()
            return list(layout.evaluate(node, arrays, graph.opsets))
        if layout.is_layout(node, inputs):
            check()
            return layout.move(node, inputs, graph.opsets)
    operator = OPERATORS.get((domain, node.op_type))
    if operator is None:
        advice = FOREIGN_ADVICE.get(domain) or ADVICE.get(node.op_type, HOST)
        name = f"{domain}.{node.op_type}" if domain else node.op_type
        raise _NoUnit(name, advice)
    check()
    attributes = {a.name: _decode(helper.get_attribute_value(a)) for a in node.attribute}
    kinds = [types.of(name) for name in node.input]
    return operator(Call(algebra, node, inputs, attributes, graph.opsets[""], kinds))


def _check_signature(node: onnx.NodeProto, opset: int) -> None:
    """Refuse a standard operator with too few or too many inputs, or with foreign attributes."""
    if is_ahead(node, opset):
        opset = AHEAD[node.op_type]
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        raise NotRecognised(f"opset {opset} has no operator {node.op_type}") from None
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
