"""Quantised graphs that the arithmetic cannot take: one sentence, the node, the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType

from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.given import NO_ZERO
from moesaic.compiler.quant.given import given_steps
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import Vit
from tests.compiler.qdq import quantise_file
from tests.compiler.test_frontend_damaged import damage
from tests.compiler.test_frontend_quantised import SAMPLES, quantised, with_clips, with_quant_nodes
from tests.compiler.validated import read_validated


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_graph(path)
    text = str(caught.value)
    assert "\n" not in text and text.count(". ") == 0
    return text


def test_each_zero_point_is_taken_or_noted(tmp_path: Path) -> None:
    """One zero point alone is found, whichever value it is of."""
    path = quantised(tmp_path, {"attention": "separate"})
    proto = onnx.load(path)
    before = given_steps(load_graph(path))
    taken, noted = set(), set()
    for node in proto.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        for other in changed.graph.node:
            if node.output[0] in (*other.input, *other.output) and "Linear" in other.op_type:
                other.input[2] = "moved"
        moved = numpy_helper.from_array(np.array(7, np.int8), "moved")
        changed.graph.initializer.append(moved)
        onnx.save(changed, tmp_path / "moved.onnx")
        graph = load_graph(tmp_path / "moved.onnx")
        after = given_steps(graph)
        taken |= {point for point, given in after.items() if given.zero == 7}
        lost = before.keys() - after.keys()
        noted |= lost
        said = f"{NO_ZERO}: node {node.name!r} (QuantizeLinear)"
        assert bool(lost) == any(note == said for note in graph.notes)
        kept = {point for point in before if point not in lost and after[point].zero == 0}
        assert all(after[point] == before[point] for point in kept - {"output"})
    assert taken == {"input", "1.hidden"}
    assert noted == {"0.query", "0.key", "0.value", "0.attention"}


def test_codes_that_do_not_reach_zero(tmp_path: Path) -> None:
    path = with_quant_nodes(quantised(tmp_path), "qonnx.custom_op.general")
    proto = onnx.load(path)
    node = next(n for n in proto.graph.node if n.op_type == "Quant" and n.input[0] == "x")
    _replace(proto, node, 2, np.array(300.0, np.float32))
    onnx.save(proto, tmp_path / "far.onnx")
    assert "the zero point 300, which is no code of 8 bits" in refusal(tmp_path / "far.onnx")


def test_clip_of_codes_to_fewer_bits(tmp_path: Path) -> None:
    """Brevitas exports four bits as int8 behind a Clip."""
    path = with_clips(quantised(tmp_path), -8, 7)
    text = refusal(path)
    assert "(QuantizeLinear) rounds the " in text and " to 4 bits, where the accelerator" in text


def test_clip_of_codes_to_one(tmp_path: Path) -> None:
    text = refusal(with_clips(quantised(tmp_path), 5, 5))
    assert "(Clip) of " in text and "must leave more than one code, not [5, 5]" in text


def test_outputs_may_have_a_zero_point(tmp_path: Path) -> None:
    """Outputs have 16 bits: the step is such that they hold all of the file's codes."""
    path = quantised(tmp_path)
    proto = onnx.load(path)
    last = proto.graph.node[-1]
    assert last.output[0] == proto.graph.output[0].name
    for node in proto.graph.node:
        if last.input[0] in (*node.input, *node.output):
            node.input[2] = "moved"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(-100, np.int8), "moved"))
    onnx.save(proto, tmp_path / "moved.onnx")
    moved, still = load_graph(tmp_path / "moved.onnx"), load_graph(path)
    assert moved.heads[0].linear.given.target == 2 * still.heads[0].linear.given.target  # type: ignore[operator]


@pytest.mark.parametrize("kind", [QuantType.QInt16, QuantType.QUInt16])
def test_activations_of_16_bits(tmp_path: Path, kind: QuantType) -> None:
    path = quantise_file(
        Vit(opset=21).save(tmp_path), tmp_path / "qdq.onnx", SAMPLES, activations=kind
    )
    text = refusal(path)
    assert "to 16 bits, where the accelerator has 8" in text and "QuantType.QInt8" in text


def test_weights_of_16_bits(tmp_path: Path) -> None:
    path = quantised(tmp_path, weights=QuantType.QInt16)
    text = refusal(path)
    assert "its weights have 16 bits at node " in text and "where the accelerator has 8" in text
    assert "weight_type=QuantType.QInt8" in text


# -- damaged pairs -----------------------------------------------------------------------------

Edit = Callable[[onnx.ModelProto, onnx.NodeProto, onnx.NodeProto], None]


def _replace(proto: onnx.ModelProto, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
    node.input[index] = f"{node.name} {index} replaced"
    proto.graph.initializer.append(numpy_helper.from_array(value, node.input[index]))


def _scale(*values: float) -> Edit:
    def edit(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
        scale = np.array(values, np.float32).reshape([-1] if len(values) > 1 else [])
        for node in (first, second):
            _replace(proto, node, 1, scale)

    return edit


def _per_channel(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    for node in (first, second):
        _replace(proto, node, 1, np.full(12, 0.1, np.float32))
        _replace(proto, node, 2, np.zeros(12, np.int8))


def _no_scale(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    maximum = helper.make_node("ReduceMax", [first.input[0]], ["maximum"], keepdims=0)
    proto.graph.node.insert(list(proto.graph.node).index(first), maximum)
    first.input[1] = second.input[1] = "maximum"


def _other_scale(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    _replace(proto, second, 1, np.array(0.77, np.float32))


def _other_zero(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    _replace(proto, second, 2, np.array(3, np.int8))


def _alone(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    second.op_type, second.input[:] = "Cast", [second.input[0]]
    second.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))


def _no_first(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    first.op_type, first.input[:] = "Cast", [first.input[0]]
    first.attribute.append(helper.make_attribute("to", TensorProto.INT8))


def _short_float(proto: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
    for node in (first, second):
        _replace(proto, node, 2, np.zeros((), kind))


EDITS: dict[str, tuple[Edit, str, str]] = {
    "zero": (_scale(0.0), "QuantizeLinear", "must have a scale above 0, not 0.0: calibrate"),
    "negative": (_scale(-0.5), "QuantizeLinear", "must have a scale above 0, not -0.5: calibrate"),
    "NaN": (_scale(np.nan), "QuantizeLinear", "must have a scale above 0, not nan: calibrate"),
    "infinite": (_scale(np.inf), "QuantizeLinear", "must have a scale above 0, not inf: calib"),
    "per channel": (_per_channel, "QuantizeLinear", "must have one .* not 12, .* per tensor"),
    "computed": (_no_scale, "QuantizeLinear", "must have a constant scale: quantise statically"),
    "another scale": (_other_scale, "DequantizeLinear", "must have the scale and zero point of"),
    "another zero": (_other_zero, "DequantizeLinear", "must have the scale and zero point of"),
    "no second": (_alone, "QuantizeLinear", "must be followed by a DequantizeLinear: quantise"),
    "no first": (_no_first, "DequantizeLinear", "which no QuantizeLinear makes: quantise"),
    "floats of 8 bits": (_short_float, "QuantizeLinear", "must give integers, not float8e4m3fn"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_damaged_pair(tmp_path: Path, edit: str) -> None:
    path = quantised(tmp_path)
    proto = onnx.load(path)
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")
    first = next(
        n
        for n in proto.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] == gelu.output[0]
    )
    second = next(n for n in proto.graph.node if n.input[:1] == first.output[:1])
    change, kind, sentence = EDITS[edit]
    names = {"QuantizeLinear": first.name, "DequantizeLinear": second.name}
    change(proto, first, second)
    onnx.save(proto, tmp_path / "damaged.onnx")
    text = refusal(tmp_path / "damaged.onnx")
    assert f"node {names[kind]!r} ({kind}) of " in text
    with pytest.raises(UserError, match=sentence):
        load_graph(tmp_path / "damaged.onnx")


def test_weight_scales_that_do_not_fit(tmp_path: Path) -> None:
    path = quantised(tmp_path)
    proto = onnx.load(path)
    sizes = {t.name: list(t.dims) for t in proto.graph.initializer}
    node = next(
        n
        for n in proto.graph.node
        if n.op_type == "DequantizeLinear" and len(sizes.get(n.input[0], [])) == 2
    )
    _replace(proto, node, 1, np.full(5, 0.1, np.float32))
    onnx.save(proto, tmp_path / "damaged.onnx")
    text = refusal(tmp_path / "damaged.onnx")
    assert f"node {node.name!r}" in text and "one for each channel, not 5" in text


@pytest.mark.parametrize(
    "operator", ["DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "ConvInteger"]
)
def test_integer_operators(tmp_path: Path, operator: str) -> None:
    proto = Vit().proto()
    node = next(n for n in proto.graph.node if n.op_type == "MatMul")
    node.op_type = operator
    onnx.save(proto, tmp_path / "model.onnx")
    assert "quant_format=QuantFormat.QDQ" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_graph_is_refused_or_read_right(tmp_path: Path, seed: int) -> None:
    """Random edits of a quantised graph: refused in one sentence, or what is left is right."""
    rng = np.random.default_rng(seed)
    source = onnx.load(quantised(tmp_path, {"mlp": "loop"} if seed % 2 else {}))
    refused = 0
    for _ in range(6):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        for _ in range(int(rng.integers(1, 4))):
            damage(rng, proto.graph)
        node = proto.graph.node[int(rng.integers(len(proto.graph.node)))]
        if rng.random() < 0.3:
            del node.input[int(rng.integers(3)) :]
        onnx.save(proto, tmp_path / "damaged.onnx")
        try:
            read_validated(tmp_path / "damaged.onnx")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


# -- Quant nodes -------------------------------------------------------------------------------


def _attribute(name: str, value: object) -> Callable[[onnx.ModelProto, onnx.NodeProto], None]:
    def edit(proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def _input(index: int, *value: float) -> Callable[[onnx.ModelProto, onnx.NodeProto], None]:
    return lambda proto, node: _replace(proto, node, index, np.array(value, np.float32))


QUANT_EDITS = {
    "rounding": (_attribute("rounding_mode", "FLOOR"), "must round to the nearest"),
    "scale": (_input(1, 0.0), "must have a scale above 0, not 0.0"),
    "scales": (_input(1, 0.1, 0.2), "must have one scale for the whole activation, not 2"),
    "zero point": (_input(2, 0.5), "must have a whole zero point and 2 to 32 bits, not 0.5"),
    "zero points": (_input(2, 0.0, 1.0), "must have one zero point and one width"),
    "one bit": (_input(3, 1.0), "must have a whole zero point and 2 to 32 bits, not 0 and 1"),
    "few bits": (_input(3, 4.0), "rounds the activations to 4 bits, where the accelerator has 8"),
}


@pytest.mark.parametrize("edit", QUANT_EDITS)
def test_quant_node_of_an_activation(tmp_path: Path, edit: str) -> None:
    path = with_quant_nodes(quantised(tmp_path), "qonnx.custom_op.general")
    proto = onnx.load(path)
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")
    node = next(n for n in proto.graph.node if n.op_type == "Quant" and gelu.output[0] in n.input)
    node.name = "the quantiser"
    change, sentence = QUANT_EDITS[edit]
    change(proto, node)
    onnx.save(proto, tmp_path / "damaged.onnx")
    text = refusal(tmp_path / "damaged.onnx")
    assert "node 'the quantiser' (Quant)" in text and sentence in text


def test_quant_node_of_a_wide_weight(tmp_path: Path) -> None:
    path = with_quant_nodes(quantised(tmp_path), "onnx.brevitas", bits=12)
    text = refusal(path)
    assert "its weights have 12 bits at node " in text and "(Quant), where the" in text


def test_unsigned_weights_with_a_zero_point(tmp_path: Path) -> None:
    """What remains of unsigned codes beyond 127 is no int8: quantised anew, and said."""
    path = quantised(
        tmp_path, activations=QuantType.QUInt8, weights=QuantType.QUInt8, WeightSymmetric=False
    )
    graph, _ = read_validated(path)
    assert any("no int8 with a scale for each output" in note for note in graph.notes)
