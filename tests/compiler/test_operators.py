"""The table of operators: what it does not name of a node is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.algebra import Algebra
from moesaic.compiler.frontend.choices import Compare, TopKIndices, TopKValues
from moesaic.compiler.frontend.operators import OPERATORS, Call
from moesaic.compiler.frontend.operators.call import ANY
from moesaic.compiler.frontend.opset import OPSETS
from moesaic.compiler.frontend.views import Arena, Input, NotRecognised, View, constant_view
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import Vit

FIXED = [
    (key, attribute)
    for key, operator in OPERATORS.items()
    for attribute, allowed in operator.fixed.items()
    if allowed is not ANY
]


def call(key: tuple[str, str], inputs: int = 1, **attributes: Any) -> Call:
    """A call of an operator on `inputs` views of the input."""
    arena = Arena()
    source = Input("input 'x'", "x", 4)
    view = arena.view(arena.add(source), (1, 4))
    node = helper.make_node(key[1], ["x"] * inputs, ["y"], domain=key[0])
    kinds = [TensorProto.FLOAT] * inputs
    return Call(Algebra(arena), node, [view] * inputs, attributes, 20, kinds)


@pytest.mark.parametrize("key", OPERATORS, ids="".join)
def test_unknown_attribute(key: tuple[str, str]) -> None:
    with pytest.raises(NotRecognised, match="attribute 'nonsense' is not supported"):
        OPERATORS[key](call(key, nonsense=1))


@pytest.mark.parametrize("key", [key for key in OPERATORS if OPERATORS[key].inputs], ids="".join)
def test_surplus_input(key: tuple[str, str]) -> None:
    most = OPERATORS[key].inputs
    assert most is not None
    with pytest.raises(NotRecognised, match=f"input {most} is not supported"):
        OPERATORS[key](call(key, most + 1))


@pytest.mark.parametrize(("key", "attribute"), FIXED, ids=lambda part: str(part))
def test_attribute_that_must_have_one_value(key: tuple[str, str], attribute: str) -> None:
    with pytest.raises(NotRecognised, match=f"attribute '{attribute}' must be .*, not 7"):
        OPERATORS[key](call(key, **{attribute: 7}))


def test_every_attribute_is_one_of_the_operator() -> None:
    """A misspelt name would refuse what should be understood."""
    for (domain, name), operator in OPERATORS.items():
        if domain:
            continue
        known: set[str] = set()
        for opset in OPSETS:
            if onnx.defs.has(name, opset):
                known |= set(onnx.defs.get_schema(name, opset).attributes)
        assert {*operator.attributes, *operator.fixed} <= known, name
        missing = known - {*operator.attributes, *operator.fixed}
        assert not missing, f"{name} has {missing}, which the table passes over"


def casts(arena: Arena) -> dict[str, View]:
    """Values whose casts to integers keep them, or do not."""
    rows = arena.view(arena.add(Input("input 'x'", "x", 8)), (2, 4))
    values = TopKValues("top", "top", 4, rows=rows, k=2)
    arena.add(values)
    numbers = TopKIndices("numbers", "numbers", 4, values=values)
    arena.add(numbers)
    zeros = constant_view(np.zeros((2, 4)))
    source = Compare("hit", "hit", 8, relation="equal", left=rows, right=zeros)
    hits = arena.view(arena.add(source), (2, 4))
    return {
        "data": rows,
        "chosen values": arena.view(values, (2, 2)),
        "hits": hits,
        "numbers": arena.view(numbers, (2, 2)),
        "half numbers": arena.view(numbers, (2, 2)).affine(0.5, 0.0),
        "half hits": hits.affine(0.5, 0.0),
        "misses": hits.affine(-1.0, 1.0),
        "twice hits": hits.affine(2.0, 0.0),
    }


ALL = set(casts(Arena()))


@pytest.mark.parametrize("operator", ["Cast", "CastLike"])
@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (TensorProto.FLOAT, ALL),
        (TensorProto.INT64, {"numbers", "hits", "misses", "twice hits"}),
        (TensorProto.UINT8, {"numbers", "hits", "misses", "twice hits"}),
        (TensorProto.FLOAT8E4M3FN, set()),
        (TensorProto.STRING, set()),
    ],
)
def test_casts_that_keep_values(operator: str, target: int, kept: set[str]) -> None:
    arena = Arena()
    for name, view in casts(arena).items():
        node = helper.make_node(operator, ["x", "like"], ["y"])
        kinds = [TensorProto.FLOAT, target]
        attributes = {"to": target} if operator == "Cast" else {}
        inputs: list[Any] = [view] if operator == "Cast" else [view, np.zeros(1)]
        made = Call(Algebra(arena), node, inputs, attributes, 20, kinds)
        if name in kept:
            assert OPERATORS["", operator](made)[0] is view
        else:
            with pytest.raises(NotRecognised, match="casts computed values to"):
                OPERATORS["", operator](made)


@pytest.mark.parametrize("operator", ["Cast", "CastLike"])
def test_cast_to_bool_compares_with_zero(operator: str) -> None:
    arena = Arena()
    for name, view in casts(arena).items():
        node = helper.make_node(operator, ["x", "like"], ["y"])
        attributes = {"to": TensorProto.BOOL} if operator == "Cast" else {}
        inputs: list[Any] = [view] if operator == "Cast" else [view, np.zeros(1)]
        kinds = [TensorProto.FLOAT, TensorProto.BOOL]
        made = Call(Algebra(arena), node, inputs, attributes, 20, kinds)
        mask = OPERATORS["", operator](made)[0]
        assert isinstance(mask, View)
        if name in ("hits", "misses"):
            assert mask is view
            continue
        assert (mask.scale == -1).all() and (mask.offset == 1).all()
        source = arena.source_of(mask)
        assert isinstance(source, Compare) and source.relation == "equal"
        assert source.left.same(view) and source.right.is_constant and not source.right.offset.any()


def test_output_that_is_not_made(tmp_path: Path) -> None:
    """A node that reads an output which nothing here computes names both."""
    vit = Vit()
    proto = vit.proto()
    norm = next(node for node in proto.graph.node if node.op_type == "LayerNormalization")
    norm.output.append("the mean")
    proto.graph.node.append(helper.make_node("Identity", ["the mean"], ["last"]))
    proto.graph.output[0].name = "last"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="LayerNormalization.*output 'the mean' is not supported"):
        load_graph(tmp_path / "model.onnx")


def test_training_mode_of_dropout(tmp_path: Path) -> None:
    class Training(Vit):
        def activation(self, x: str) -> str:
            training = self.const(True, np.bool_)
            return super().activation(self.op("Dropout", x, self.const(0.5), training))

    with pytest.raises(UserError, match="training_mode must be false"):
        load_graph(Training().save(tmp_path))


@pytest.mark.parametrize("opset", [17, 19])
def test_operator_of_a_later_opset(tmp_path: Path, opset: int) -> None:
    """Such a file is invalid: ONNX Runtime refuses it, too."""
    with pytest.raises(UserError, match=f"opset {opset} has no operator Gelu"):
        load_graph(Vit(gelu="node", norm="without beta", opset=opset).save(tmp_path))
