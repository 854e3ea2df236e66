"""Strategies for ONNX files: supported forms, known deviations, and edits of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.onnx_odd import ACTIVATIONS, GATES, OPERATORS, OddVit
from tests.compiler.test_frontend_forms import FORMS

EDITS = [
    "rewire",
    "operator",
    "drop attributes",
    "swap inputs",
    "constant",
    "attribute",
    "insert",
    "scale",
    "shift",
    "swap constants",
    "drop input",
    "extra input",
    "shape of constant",
    "use another output",
]
INSERTED = ["Neg", "Relu", "Identity", "Dropout", "Softmax", "Sigmoid", "Erf", "Sqrt", "Exp",
            "Reciprocal", "cast int", "cast bool", "cast half", "cast like"]  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One change of a graph; numbers are taken modulo what there is."""

    kind: str
    node: int
    place: int
    other: int
    value: float


@dataclass(frozen=True)
class Example:
    """A file: the options of its writer, and edits."""

    options: tuple[tuple[str, Any], ...]
    edits: tuple[Edit, ...]

    def proto(self) -> onnx.ModelProto:
        """Return the model; raises where an edit makes what no file can hold."""
        proto = OddVit(**dict(self.options)).proto()
        for number, edit in enumerate(self.edits):
            apply(proto.graph, edit, f"edit{number}")
        return proto


@st.composite
def options(draw: st.DrawFn) -> tuple[tuple[str, Any], ...]:
    """Options of :class:`OddVit`: mostly defaults, some other forms, at times a deviation."""
    chosen: dict[str, Any] = {"seed": draw(st.integers(0, 99))}
    for part, forms in FORMS.items():
        if draw(st.integers(0, 3)) == 0:
            chosen[part] = draw(st.sampled_from(forms))
    if draw(st.integers(0, 3)) == 0:
        chosen["odd"] = draw(st.sampled_from([*GATES, *OPERATORS, *ACTIVATIONS, "tie"]))
        if chosen["odd"] in GATES:
            chosen["mlp"] = "loop"
    if chosen.get("attention") in ("node 3d", "shared keys"):
        chosen["opset"] = 23
    if "linear" in chosen and str(chosen.get("mlp", "")).startswith("stacked"):
        del chosen["linear"]
    return tuple(sorted(chosen.items()))


EDIT = st.builds(
    Edit,
    kind=st.sampled_from(EDITS),
    node=st.integers(0, 200),
    place=st.integers(0, 200),
    other=st.integers(0, 200),
    value=st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 1.001, 100.0, 1e-3]),
)
EXAMPLES = st.builds(Example, options(), st.lists(EDIT, max_size=3).map(tuple))


def apply(graph: onnx.GraphProto, edit: Edit, name: str) -> None:
    """Change a graph in place."""
    node = graph.node[edit.node % len(graph.node)]
    constants = graph.initializer
    if not node.input:
        return
    match edit.kind:
        case "rewire":
            names = [output for other in graph.node for output in other.output]
            names += [tensor.name for tensor in constants]
            node.input[edit.place % len(node.input)] = names[edit.other % len(names)]
        case "operator":
            node.op_type = graph.node[edit.other % len(graph.node)].op_type
        case "drop attributes":
            del node.attribute[:]
        case "swap inputs" if len(node.input) > 1:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        case "constant":
            tensor = constants[edit.other % len(constants)]
            array = numpy_helper.to_array(tensor)
            changed = np.array(array)
            if changed.size:
                changed.reshape(-1)[edit.place % changed.size] = edit.value
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        case "shape of constant":
            tensor = constants[edit.other % len(constants)]
            array = numpy_helper.to_array(tensor)
            grown = np.resize(array, [n + edit.place % 3 for n in array.shape] or [2])
            tensor.CopyFrom(numpy_helper.from_array(grown, tensor.name))
        case "attribute" if node.attribute:
            attribute = node.attribute[edit.place % len(node.attribute)]
            values: dict[int, Any] = {
                onnx.AttributeProto.INT: int(edit.other % 5 - 1),
                onnx.AttributeProto.FLOAT: edit.value,
                onnx.AttributeProto.STRING: "tanh",
                onnx.AttributeProto.INTS: [int(n) + 1 for n in attribute.ints],
            }
            if attribute.type in values:
                new = helper.make_attribute(attribute.name, values[attribute.type])
                attribute.CopyFrom(new)
        case "swap constants":
            one, two = (constants[n % len(constants)] for n in (edit.place, edit.other))
            one.name, two.name = two.name, one.name
        case "drop input":
            del node.input[edit.place % len(node.input)]
        case "extra input":
            node.input.append(constants[edit.other % len(constants)].name)
        case "use another output":
            graph.output[0].name = node.output[edit.place % len(node.output)]
        case "insert" | "scale" | "shift":
            insert(graph, edit, name)


def insert(graph: onnx.GraphProto, edit: Edit, name: str) -> None:
    """Put one operator in front of an input of a node."""
    position = edit.node % len(graph.node)
    node = graph.node[position]
    place = edit.place % len(node.input)
    before = node.input[place]
    new: list[onnx.NodeProto] = []
    if edit.kind != "insert":
        constant = numpy_helper.from_array(np.float32(edit.value), f"{name}.c")
        graph.initializer.append(constant)
        kind = "Mul" if edit.kind == "scale" else "Add"
        new.append(helper.make_node(kind, [before, constant.name], [name]))
    else:
        kind = INSERTED[edit.other % len(INSERTED)]
        types = {
            "cast int": TensorProto.INT64,
            "cast bool": TensorProto.BOOL,
            "cast half": TensorProto.FLOAT16,
        }
        if kind in types:
            new.append(helper.make_node("Cast", [before], [f"{name}.t"], to=types[kind]))
            new.append(helper.make_node("Cast", [f"{name}.t"], [name], to=TensorProto.FLOAT))
        elif kind == "cast like":
            first = graph.initializer[edit.other % len(graph.initializer)].name
            new.append(helper.make_node("CastLike", [before, first], [name]))
        elif kind == "Dropout":
            new.append(helper.make_node("Dropout", [before], [f"{name}.d", f"{name}.m"]))
            new.append(helper.make_node("Cast", [f"{name}.m"], [name], to=TensorProto.FLOAT))
            if edit.other % 2:
                node.input[place] = f"{name}.d"
        else:
            new.append(helper.make_node(kind, [before], [name]))
    if node.input[place] == before:
        node.input[place] = name
    for offset, made in enumerate(new):
        graph.node.insert(position + offset, made)
