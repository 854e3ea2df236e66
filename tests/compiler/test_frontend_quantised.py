"""Quantised graphs: their quantisers are taken out, their integers and steps are kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.preprocess import quant_pre_process

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.given import NO_ZERO
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.points import Site, sites
from moesaic.compiler.quant import quantise, quantise_tasks
from moesaic.compiler.quant.given import GivenStep, given_steps, kept_scale
from moesaic.models.zoo.mixtures import MixtureViT, mlp
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import dequantise_output, quantise_input
from moesaic.spec.intgraph import IntMoe
from moesaic.spec.metrics import sqnr_db
from tests.compiler.onnx_vit import CHANNELS, HEIGHT, WIDTH, Vit
from tests.compiler.qdq import quantise_file, run, without
from tests.compiler.validated import read_validated, samples_for

SAMPLES = np.random.default_rng(7).standard_normal((4, 3, HEIGHT, WIDTH)).astype(np.float32)
FORMS: list[dict[str, Any]] = [
    {"attention": "split", "residual": "branch first"},
    {"attention": "separate", "linear": "gemm", "mlp": "loop", "scale": "key"},
    {"embed": "unfold", "residual": "layer scale", "scale": "scores", "mlp": "renormalised"},
    {"linear": "commuted", "class_token": "none", "norm": "power", "head": "class"},
]
KINDS: list[dict[str, Any]] = [
    {},
    {"per_channel": False},
    {"activations": QuantType.QUInt8},  # symmetric around 128
    {"weights": QuantType.QInt4},
    {"AddQDQPairToWeight": True},
    {"symmetric": False},  # as `quantize_static` does by itself
    {"symmetric": False, "activations": QuantType.QUInt8, "per_channel": False},
]


def quantised(folder: Path, form: dict[str, Any] | None = None, **options: Any) -> Path:
    """Write a small model and what ``quantize_static`` makes of it; return that."""
    vit = Vit(**(form or {}), opset=21 if "weights" in options else 20)
    return quantise_file(vit.save(folder), folder / "qdq.onnx", SAMPLES, **options)


def by_role(graph: ir.Graph) -> dict[str, Site]:
    return {site.role: site for site in sites(graph)}


def test_head_on_the_stream_keeps_its_integers(tmp_path: Path) -> None:
    graph, _ = read_validated(quantised(tmp_path, {"head": "no norm"}))
    assert graph.heads[0].norm.plain and graph.heads[0].linear.given.codes is not None
    assert not any("quantised anew" in note for note in graph.notes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ", ".join(map(str, kind.items())))
@pytest.mark.parametrize("form", FORMS, ids=lambda form: ", ".join(map(str, form.values())))
def test_quantised_graph_is_read(
    tmp_path: Path, form: dict[str, Any], kind: dict[str, Any]
) -> None:
    """Compared as sharply as a float file; every layer has integers, every point a step."""
    path = quantised(tmp_path, form, **kind)
    graph, found = read_validated(path)
    assert found.worst < 0.25
    assert all(site.linear.given.codes is not None for site in sites(graph))
    wanted, products = {"input", "output"}, set()
    symmetric = kind.get("symmetric", True)
    assert symmetric == (not any(NO_ZERO in note for note in graph.notes))
    for number, layer in enumerate(graph.layers):
        if isinstance(layer, ir.Attention):
            products |= {f"{number}.{part}" for part in ("query", "key", "value", "attention")}
        elif isinstance(layer, ir.Mlp):
            wanted |= {f"{number}.hidden"}
        else:
            wanted |= {f"{number}.expert{e}.hidden" for e in range(len(layer.experts))}
    given = given_steps(graph)
    assert given.keys() - products == wanted
    # A range that happens to lie around 0 has no zero point.
    assert products <= given.keys() if symmetric else products - given.keys()


def test_the_last_of_several_roundings_counts(tmp_path: Path) -> None:
    """Keys are rounded behind their bias and behind each change of their layout."""
    path = quantised(tmp_path, {"attention": "separate"})
    proto = onnx.load(path)
    product = next(n for n in proto.graph.node if n.op_type == "Softmax").input[0]
    makers = {name: node for node in proto.graph.node for name in node.output}
    scores = product
    while makers[scores].op_type != "MatMul":
        scores = makers[scores].input[0]
    second = makers[makers[scores].input[1]]
    first = makers[second.input[0]]
    assert first.op_type == "QuantizeLinear" and makers[first.input[0]].op_type == "Transpose"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.125, "f"), "other"))
    first.input[1] = second.input[1] = "other"
    onnx.save(proto, tmp_path / "changed.onnx")
    before, after = (given_steps(load_graph(p)) for p in (path, tmp_path / "changed.onnx"))
    assert after == {**before, "0.key": GivenStep(0.125)}


@pytest.mark.parametrize("scale", ["query", "both", "scores", "per head"])
@pytest.mark.parametrize("attention", ["joint", "separate", "scores transposed"])
def test_steps_are_those_of_the_points(tmp_path: Path, attention: str, scale: str) -> None:
    """ONNX Runtime's are largest magnitudes over 127: measured here at each point once more.

    Wherever the file scales queries and keys, and in front of which operator it rounds them.
    """
    form = {"attention": attention, "scale": scale, "mlp": "loop"}
    path = quantised(tmp_path, form)
    largest: dict[str, float] = {}

    def observe(point: str, value: Any) -> None:
        if value.numel():
            largest[point] = max(largest.get(point, 0.0), float(value.abs().max()))

    run_float(load_graph(tmp_path / "model.onnx"), SAMPLES, observe)
    steps = given_steps(read_validated(path)[0])
    assert len(steps) >= 9
    # A scale for each head becomes part of the queries read here: they are not the file's.
    joint_parts = ("key", "value") if scale == "per head" else ("query", "key", "value")
    joint = max(largest[f"0.{part}"] for part in joint_parts)
    for point, given in steps.items():
        step = given.step
        if "expert" in point:  # the file runs all experts on all tokens
            continue
        seen = [largest[point]]
        if attention == "joint" and point in ("0.query", "0.key", "0.value"):
            seen.append(joint)  # rounded before they are taken apart, and not again
        assert any(step == pytest.approx(value / 127, rel=1e-4) for value in seen), point


def test_what_is_left_is_the_file_without_its_pairs(tmp_path: Path) -> None:
    path = quantised(tmp_path, {"mlp": "loop"})
    graph = read_model(path)
    assert not any("quantize" in node.op_type.lower() for node in graph.nodes)
    plain = without(path, set(graph.quantisation.activations))
    x = SAMPLES[:2]
    assert np.array_equal(run(graph.model, x), run(plain, x))
    assert graph.heads[0].tensor == onnx.load(path).graph.output[0].name


@pytest.mark.parametrize("per_channel", [True, False])
def test_integers_are_the_files(tmp_path: Path, per_channel: bool) -> None:
    """Steps, weights and input codes to the bit; nothing but folded layers is quantised anew."""
    form = {"mlp": "loop", "attention": "separate"}
    path = quantised(tmp_path, form, per_channel=per_channel)
    graph, _ = read_validated(path)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    held = {a.tobytes() for a in tensors.values() if a.dtype == np.int8}
    integer, report = quantise(graph, samples_for(graph), "default")
    first = next(n for n in onnx.load(path).graph.node if n.op_type == "QuantizeLinear")
    assert first.input[0] == "x" and integer.input_scale == float(tensors[first.input[1]])
    steps = {float(a.item()) for a in tensors.values() if a.dtype == np.float32 and a.size == 1}
    given = given_steps(graph)
    assert steps >= {found.step for point, found in given.items() if point != "output"}
    assert integer.heads[0].scale == given["output"].step / 256 and given["output"].step in steps
    codes = np.rint(SAMPLES / given["input"].step).clip(-128, 127)
    ours = quantise_input(integer, SAMPLES)
    assert (np.sort(ours.ravel()) == np.sort(codes.ravel())).mean() > 0.999
    attention, moe = integer.layers
    for linear in (attention.output, *(expert.down for expert in moe.experts)):  # type: ignore[union-attr]
        assert np.ascontiguousarray(linear.weight.T).tobytes() in held
    assert integer.embed.linear.weight.tobytes() in held
    for linear in (attention.query, moe.gate, moe.experts[0].up):  # type: ignore[union-attr]
        assert np.ascontiguousarray(linear.weight.T).tobytes() not in held
    count = len(list(sites(graph)))
    assert f"6 of {count} quantised layers keep the file's integers" in report.notes[0]
    assert f"{count - 6} have a LayerNorm folded" in report.notes[0]


def test_integers_stay_behind_a_norm_that_scales_all_alike(tmp_path: Path) -> None:
    """What takes weights off the file's grid is gamma, not the fold: beta goes into the bias."""
    vit = Vit()
    proto = vit.proto()
    for tensor in proto.graph.initializer:
        readers = [n for n in proto.graph.node if tensor.name in n.input[1:2]]
        if readers and readers[0].op_type == "LayerNormalization":
            tensor.CopyFrom(numpy_helper.from_array(np.full(CHANNELS, 1.27, "f"), tensor.name))
    onnx.save(proto, tmp_path / "model.onnx")
    path = quantise_file(tmp_path / "model.onnx", tmp_path / "qdq.onnx", SAMPLES)
    graph, _ = read_validated(path)
    _, report = quantise(graph, samples_for(graph), "default")
    count = len(list(sites(graph)))
    assert f"{count} of {count} quantised layers keep the file's integers; 0" in report.notes[0]


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_zero_points_are_the_files(tmp_path: Path, kind: QuantType) -> None:
    """Input and activations have the file's codes to the bit, and the sums take the zero off."""
    path = quantised(tmp_path, {"mlp": "loop"}, symmetric=False, activations=kind)
    graph, _ = read_validated(path)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    nodes = [n for n in onnx.load(path).graph.node if n.op_type == "QuantizeLinear"]
    middle = 128 if kind == QuantType.QUInt8 else 0
    held = {(float(tensors[n.input[1]]), int(tensors[n.input[2]]) - middle) for n in nodes}
    given = given_steps(graph)
    hidden = [point for point in given if point.endswith("hidden")]
    assert hidden and all(given[point].zero < -90 for point in hidden)  # GELU is above -0.17
    assert {(given[p].step, given[p].zero) for p in ["input", *hidden]} <= held
    integer, report = quantise(graph, samples_for(graph), "default")
    assert (integer.input_scale, integer.input_zero) == next(
        (float(tensors[n.input[1]]), int(tensors[n.input[2]]) - middle)
        for n in nodes
        if n.input[0] == "x"
    )
    moe = integer.layers[1]
    assert isinstance(moe, IntMoe)
    assert [e.offset for e in moe.experts] == [given[point].zero + 128 for point in hidden]
    assert report.sqnr_db > 25


def test_default_quantisation_of_exported_modules(tmp_path: Path) -> None:
    """The way that ONNX Runtime's documents show, of both exporters of torch: nothing is left out,
    and all layers have the file's integers."""
    torch.manual_seed(0)
    module = MixtureViT(mlp()).eval()
    x = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float32)
    for dynamo in (True, False):
        source, ready = tmp_path / f"{dynamo}.onnx", tmp_path / f"{dynamo} ready.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (torch.from_numpy(x[:1]),), source, dynamo=dynamo, verbose=False,
                input_names=["x"],
            )  # fmt: skip
        quant_pre_process(source, ready)
        for given, per_channel in ((source, False), (ready, True)):
            path = quantise_file(
                given, tmp_path / "qdq.onnx", x, symmetric=False, per_channel=per_channel
            )
            graph, found = read_validated(path)
            assert graph.host is None and found.worst < 0.25
            assert all(site.linear.given.codes is not None for site in sites(graph))
            integer, report = quantise(graph, x, "default")
            assert report.sqnr_db > 25
            codes = Executor(integer).run(quantise_input(integer, x))
            assert sqnr_db(run(path, x), dequantise_output(integer, codes)) > 15


@pytest.mark.parametrize("gelu", ["torch", "half gate", "tanh arithmetic"])
def test_activation_written_as_arithmetic(tmp_path: Path, gelu: str) -> None:
    """Its constants are quantised, too, and come back as they were."""
    graph, _ = read_validated(quantised(tmp_path, {"gelu": gelu}))
    assert given_steps(graph)["1.hidden"]


@pytest.mark.parametrize(
    ("form", "options", "missing"),
    [
        ({"linear": "from the left"}, {}, 7),
        ({"mlp": "stacked"}, {}, 8),
        ({"mlp": "stacked"}, {"per_channel": False}, 0),
    ],
)
def test_scales_along_the_sum_are_noted(
    tmp_path: Path, form: dict[str, Any], options: dict[str, Any], missing: int
) -> None:
    """A scale for each input is none that the accelerator has: such weights are quantised anew."""
    graph, _ = read_validated(quantised(tmp_path, form, **options))
    assert sum(site.linear.given.codes is None for site in sites(graph)) == missing
    noted = [note for note in graph.notes if "no int8 with a scale for each output" in note]
    assert len(noted) == (missing > 0)
    assert not missing or f"and {missing - 1} more" in noted[0]


def test_row_that_leaves_its_grid_is_quantised_anew(tmp_path: Path) -> None:
    graph, _ = read_validated(quantised(tmp_path))
    linear = by_role(graph)["1.down"].linear
    scale = kept_scale(linear)
    assert scale is not None
    assert np.allclose(linear.given.codes * scale[:, None], linear.weight, rtol=1e-6)
    linear.weight *= np.arange(1, len(linear.weight) + 1, dtype=np.float32)[:, None]
    assert kept_scale(linear) is not None  # a factor for each row keeps the codes
    linear.weight[2, 3] += 1e-3 * np.abs(linear.weight[2]).max()
    assert kept_scale(linear) is None
    linear.weight[2, 3] -= 1e-3 * np.abs(linear.weight[2]).max()
    linear.weight[1] *= -1
    assert kept_scale(linear) is None


def test_equal_layers_of_two_tasks_are_one(tmp_path: Path) -> None:
    graph, _ = read_validated(quantised(tmp_path, {"mlp": "loop"}))
    other, _ = read_validated(quantised(tmp_path, {"mlp": "loop"}))
    x = samples_for(graph)
    built, _ = quantise_tasks({"a": graph, "b": other}, {"a": x, "b": x})
    assert built["a"].layers[0].output is built["b"].layers[0].output  # type: ignore[union-attr]


def test_tasks_with_other_steps_keep_their_own(tmp_path: Path) -> None:
    """Equal weights, calibrated on other samples: equal integers, each task its own steps."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    graph, _ = read_validated(quantised(tmp_path / "a"))
    path = quantise_file(Vit().save(tmp_path / "b"), tmp_path / "b/qdq.onnx", 2 * SAMPLES)
    other, _ = read_validated(path)
    x = samples_for(graph)
    built, _ = quantise_tasks({"a": graph, "b": other}, {"a": x, "b": x})
    assert built["a"].input_scale == given_steps(graph)["input"].step
    assert built["b"].input_scale == given_steps(other)["input"].step != built["a"].input_scale
    first, second = (built[task].layers[0].output for task in "ab")  # type: ignore[union-attr]
    assert np.array_equal(first.weight, second.weight)


def test_task_without_steps_takes_those_it_shares(tmp_path: Path) -> None:
    """A float file beside a quantised one with the same weights: one integer tensor for both."""
    graph, _ = read_validated(quantised(tmp_path))
    plain, _ = read_validated(quantised(tmp_path))
    for site in sites(plain):
        site.linear.given = ir.Given()
    x = samples_for(graph)
    built, _ = quantise_tasks({"a": graph, "b": plain}, {"a": x, "b": x})
    assert built["b"].input_scale == given_steps(graph)["input"].step


# -- Quant nodes of QONNX and Brevitas ---------------------------------------------------------


def with_quant_nodes(path: Path, domain: str, bits: int = 8) -> Path:
    """Replace every pair of a quantised file by a Quant node, and write it beside."""
    model = onnx.load(path)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    nodes = []

    def constant(name: str, value: Any) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, "f"), name))
        return name

    for index, node in enumerate(model.graph.node):
        if node.op_type == "QuantizeLinear":
            continue
        held = tensors.get(node.input[0])
        if node.op_type != "DequantizeLinear" or (held is not None and held.dtype == np.int32):
            nodes.append(node)
            continue
        scale = tensors[node.input[1]]
        width, source = 8.0, node.input[0]
        if source in tensors:  # the float weight again
            codes = tensors[source].astype(np.float32)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if scale.ndim == 1 and scale.size > 1:
                scale = scale.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
            source = constant(f"float {index}", codes * scale)
            width = float(bits)
        else:
            source = first[source].input[0]
        inputs = [
            source,
            constant(f"scale {index}", scale),
            constant(f"zero {index}", 0.0),
            constant(f"width {index}", width),
        ]
        nodes.append(
            helper.make_node(
                "Quant", inputs, node.output, domain=domain, signed=1, narrow=1,
                rounding_mode="ROUND",
            )
        )  # fmt: skip
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    target = path.with_name("quant.onnx")
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("domain", ["qonnx.custom_op.general", "onnx.brevitas"])
def test_quant_nodes_say_the_same(tmp_path: Path, domain: str) -> None:
    path = quantised(tmp_path, {"mlp": "loop"})
    pairs, _ = read_validated(path)
    nodes, found = read_validated(with_quant_nodes(path, domain))
    assert found.worst < 0.25
    assert given_steps(nodes) == given_steps(pairs)
    for one, other in zip(sites(nodes), sites(pairs), strict=True):
        assert np.array_equal(one.linear.weight, other.linear.weight)
        assert np.array_equal(one.linear.given.codes, other.linear.given.codes)


def test_quant_nodes_of_fewer_bits(tmp_path: Path) -> None:
    """Weights of 4 bits: codes of -7 to 7, clipped where the float weight lies beyond."""
    path = with_quant_nodes(quantised(tmp_path), "onnx.brevitas", bits=4)
    graph, found = read_validated(path)
    assert found.worst < 0.25
    codes = [site.linear.given.codes for site in sites(graph)]
    assert all(code is not None and np.abs(code).max() == 7 for code in codes)


def test_constant_behind_a_transposition(tmp_path: Path) -> None:
    """Brevitas exports the weight, its quantiser, and a transposition behind that."""
    path = quantised(tmp_path)
    model = onnx.load(path)
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear"
        and any(t.name == n.input[0] and len(t.dims) == 2 for t in model.graph.initializer)
    )
    tensor = next(t for t in model.graph.initializer if t.name == node.input[0])
    turned = numpy_helper.to_array(tensor).T.copy()
    tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    for attribute in node.attribute:
        attribute.i = 1 - attribute.i
    name = node.output[0]
    node.output[0] = f"{name} turned"
    place = list(model.graph.node).index(node)
    model.graph.node.insert(
        place + 1, helper.make_node("Transpose", [f"{name} turned"], [name], perm=[1, 0])
    )
    onnx.save(model, tmp_path / "turned.onnx")
    graph, _ = read_validated(tmp_path / "turned.onnx")
    assert all(site.linear.given.codes is not None for site in sites(graph))


def with_clips(path: Path, least: int, most: int) -> Path:
    """Clip all codes of activations, and those of matrices to -127, and write it beside."""
    model = onnx.load(path)
    kinds = {t.name: t for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for name, value in (("least", least), ("most", most), ("narrow", -127), ("full", 127)):
        tensor = numpy_helper.from_array(np.array(value, np.int8), f"clip {name}")
        model.graph.initializer.append(tensor)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            source = node.input[0]
            held = kinds.get(source)
            if source in makers and makers[source].input[0] in kinds:  # a float weight
                held = kinds[makers[source].input[0]]
            if held is None or held.data_type != TensorProto.INT32:
                bounds = ["clip narrow", "clip full"] if held else ["clip least", "clip most"]
                node.input[0] = f"{source} clipped for {node.name}"
                nodes.append(
                    helper.make_node(
                        "Clip", [source, *bounds], [node.input[0]], f"{node.name} clip"
                    )
                )
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    target = path.with_name("clipped.onnx")
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("floats", [False, True])
def test_codes_of_a_narrow_range(tmp_path: Path, floats: bool) -> None:
    """Brevitas exports QuantizeLinear, Clip to -127 and 127, DequantizeLinear; weights as integers
    or, with torch's newer exporter, as floats in front of all three."""
    path = quantised(tmp_path, {"mlp": "loop"}, AddQDQPairToWeight=floats)
    plain, _ = read_validated(path)
    clipped, _ = read_validated(with_clips(path, -127, 127))
    assert given_steps(clipped) == given_steps(plain)
    for one, other in zip(sites(clipped), sites(plain), strict=True):
        assert np.array_equal(one.linear.given.codes, other.linear.given.codes)


@pytest.mark.parametrize("nodes", [False, True])
def test_constants_among_the_inputs(tmp_path: Path, nodes: bool) -> None:
    """As old tools list them, and Brevitas does: those that quantisers read are no inputs."""
    path = quantised(tmp_path)
    if nodes:
        path = with_quant_nodes(path, "qonnx.custom_op.general")
    model = onnx.load(path)
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    onnx.save(model, tmp_path / "listed.onnx")
    listed, plain = (read_validated(p)[0] for p in (tmp_path / "listed.onnx", path))
    assert listed.input_name == "x" and given_steps(listed) == given_steps(plain)


def test_half_precision_scales(tmp_path: Path) -> None:
    """Scales of 16 bits, as quantised float16 files have, are widened."""
    path = quantised(tmp_path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            short = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(short, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    graph, _ = read_validated(tmp_path / "half.onnx")
    assert given_steps(graph).keys() == given_steps(read_validated(path)[0]).keys()
