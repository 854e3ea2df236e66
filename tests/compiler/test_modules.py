"""Layers go by the user's modules where the exporter kept them, and by nodes where it did not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.modules import name_layers
from moesaic.compiler.frontend.nodes import NAMESPACE, SCOPES, describe, module_path
from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model
from moesaic.spec.errors import UserError

CONFIG = M3ViTConfig(
    height=8, width=12, patch=4, dim=20, depth=2, heads=2, experts=3, top_k=2, expert_hidden=11
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modules") / "model.onnx"
    export_onnx(random_model(CONFIG, seed=5), "seg", path)
    return path


def labels(path: Path) -> list[str]:
    return [ir.layer_label(n, layer) for n, layer in enumerate(load_graph(path).layers)]


def rewritten(path: Path, folder: Path, change: str) -> Path:
    """The model with the metadata of all nodes changed."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = {entry.key: entry.value for entry in node.metadata_props}
        del node.metadata_props[:]
        if change == "namespace":
            kept = {NAMESPACE: kept[NAMESPACE]}
        elif change == "foreign":
            kept = {SCOPES: "['a' 1", NAMESPACE: "\0/"}
        elif change == "one":
            kept = {SCOPES: "['', 'model', 'x']"}
        else:
            kept = {}
        for key, value in kept.items():
            node.metadata_props.add(key=key, value=value)
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def test_layers_are_the_modules_of_the_user(exported: Path) -> None:
    assert labels(exported) == [
        f"model.blocks.{block}.{part}" for block in (0, 1) for part in ("attention", "mlp")
    ]


def test_namespaces_say_the_same(exported: Path, tmp_path: Path) -> None:
    assert labels(rewritten(exported, tmp_path, "namespace")) == labels(exported)


@pytest.mark.parametrize("change", ["none", "foreign", "one"])
def test_without_modules_of_their_own_layers_go_by_nodes(
    exported: Path, tmp_path: Path, change: str
) -> None:
    """No metadata, damaged metadata, and one module around all layers."""
    found = labels(rewritten(exported, tmp_path, change))
    kinds = ["attention0:", "dense1:", "attention2:", "moe3:"]
    assert all(label.startswith(kind) for label, kind in zip(found, kinds, strict=True))


def node(name: str, *scopes: str) -> onnx.NodeProto:
    made = onnx.helper.make_node("MatMul", ["a", "b"], [name], name=name)
    made.metadata_props.add(key=SCOPES, value=repr(["", *scopes, name]))
    return made


def layers() -> list[ir.Layer]:
    """Attention and MLP, whose linear layers are named by number."""

    def linear(name: str) -> ir.Linear:
        return ir.Linear(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), name)

    norm = ir.Norm(np.ones(1, np.float32), np.zeros(1, np.float32), 1e-6, "norm")
    q, k, v, o, up, down = (linear(str(n)) for n in range(6))
    return [ir.Attention(norm, q, k, v, o, 1, 1, 1, 1.0, "3"), ir.Mlp(norm, up, down, "5")]


def test_a_block_that_computes_both_gives_its_name_to_both() -> None:
    found = layers()
    name_layers(found, [node(str(n), "net", "net.block") for n in range(6)])
    assert [layer.module for layer in found] == ["net.block.attention", "net.block.dense"]


def test_a_name_that_another_layer_has_is_not_given_twice() -> None:
    found = layers()
    inner = ("net", "net.b", "net.b.attention")
    nodes = [node(str(n), *(inner if n < 4 else inner[:2])) for n in range(6)]
    twice = [*found, *layers()]
    name_layers(twice, nodes)
    assert [layer.module for layer in twice] == [""] * 4
    name_layers(found, nodes)
    assert [layer.module for layer in found] == ["net.b.attention", "net.b"]


@pytest.mark.parametrize("name", ["embed", "head", "a\nb", "x" * 201])
def test_names_that_mean_or_show_something_else_are_not_taken(name: str) -> None:
    found = layers()
    name_layers(found, [node(str(n), name if n < 4 else "net") for n in range(6)])
    assert [layer.module for layer in found] == ["", "net"]


def test_nodes_of_one_name_have_no_module() -> None:
    found = layers()
    name_layers(found, [*(node(str(n), f"m{n < 4}") for n in range(6)), node("5", "other")])
    assert [layer.module for layer in found] == ["mTrue", ""]


def test_the_path_of_a_node_without_metadata_is_not_known() -> None:
    assert module_path(onnx.helper.make_node("Add", ["a", "b"], ["c"])) is None
    assert module_path(node("n", "a", "a.b")) == ["a", "a.b"]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_a_message_names_the_module_where_it_is_one(name: str) -> None:
    assert describe(node("n", "a", "a.b")).endswith(" in a.b)")
    assert " in " not in describe(node("n", name)) and describe(node("n")).startswith("node 'n' (")


def test_a_refused_node_is_named_with_its_module(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    hidden = next(
        one for one in model.graph.node if (module_path(one) or [""])[-1].endswith("1.attention")
    )
    hidden.op_type = "Einsum"
    del hidden.attribute[:]
    hidden.attribute.add(name="equation", type=onnx.AttributeProto.STRING, s=b"q?")
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(UserError, match=r"\(Einsum in model\.blocks\.1\.attention\)"):
        load_graph(tmp_path / "changed.onnx")
