"""Small parts behind the cut, which go to the host without being asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from moesaic.compiler.estimate.shapes import shape_graph
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.cut import find_cut
from moesaic.compiler.frontend.host_part import extract_host_part
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.frontend.tail import MOST_SHARE, host_share
from moesaic.compiler.frontend.trace import trace
from moesaic.compiler.validate.oracle import run_onnx
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import HostPart
from tests.compiler.onnx_heads import HeadedVit
from tests.compiler.onnx_vit import CHANNELS
from tests.compiler.test_partition import BY_THEMSELVES
from tests.compiler.validated import compare, samples_for


class Pooled(HeadedVit):
    """Classes of the mean of the tokens; ``self.outputs`` of them."""

    outputs = 5

    def finish(self, x: str, count: int) -> str:
        return self.dense(self.op("ReduceMean", x, self.ints(1)), CHANNELS, self.outputs)


class Classes(HeadedVit):
    """The number of the largest score of each token."""

    def finish(self, x: str, count: int) -> str:
        scores = self.dense(self.layer_norm(x), CHANNELS, 5)
        return self.op("ArgMax", scores, axis=-1, keepdims=0)


class Normalised(HeadedVit):
    """Features of length 1, as retrieval wants them."""

    def finish(self, x: str, count: int) -> str:
        return self.op("LpNormalization", self.dense(self.layer_norm(x), CHANNELS, 6), axis=-1)


class Enlarged(HeadedVit):
    """Maps in the resolution of the image."""

    def finish(self, x: str, count: int) -> str:
        return self.double(self.grid(self.layer_norm(x)))


def save(vit: HeadedVit, tmp_path: Path, kind: int = TensorProto.FLOAT) -> Path:
    proto = vit.proto()
    proto.graph.output[0].type.tensor_type.elem_type = kind
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("head", BY_THEMSELVES)
@pytest.mark.parametrize("mlp", ["dense", "loop"])
def test_note_says_what_and_why(tmp_path: Path, head: str, mlp: str) -> None:
    path = HeadedVit(head=head, mlp=mlp).save(tmp_path)
    graph = load_graph(path)
    assert graph.host is not None and compare(graph, path).worst < 0.25
    (note,) = graph.notes
    first = graph.host.nodes[0]
    assert note.startswith("on the host without --partition, with ")
    assert f"({first.reason}): node {first.name!r} ({first.operator})" in note
    more = len(graph.host.nodes) - 1
    assert f" and {more} more" in note if more else "more" not in note
    asked = load_graph(path, partition=True)
    assert asked.host == graph.host and not asked.notes


@pytest.mark.parametrize("vit", [Classes, Normalised, Enlarged])
def test_both_parts_give_what_the_file_gives(tmp_path: Path, vit: type[HeadedVit]) -> None:
    kind = TensorProto.INT64 if vit is Classes else TensorProto.FLOAT
    path = save(vit(head="own", mlp="loop"), tmp_path, kind)
    graph = load_graph(path)
    assert graph.host is not None and compare(graph, path).worst < 0.25
    x = samples_for(graph, 5)
    tokens = run_float(graph, x).astype(np.float32)
    part = HostPart(graph.host.model, "the host's part", dict.fromkeys(graph.host.outputs))
    (found,) = part.run({graph.heads[0].tensor: tokens}).values()
    assert found.dtype == np.float32  # numbers of classes, too
    expected = run_onnx(path, "x", x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def share(path: Path) -> float | None:
    traced = trace(read_model(path))
    backbone = find_cut(traced, traced.graph.output_names[0])
    tensors = [head.tensor for head in backbone.heads]
    return host_share(backbone, extract_host_part(traced, tensors))


@pytest.mark.parametrize("mlp", ["dense", "loop", "renormalised"])
def test_share_is_never_too_small(tmp_path: Path, mlp: str) -> None:
    """Beside the products that the accelerator is said to have."""
    for outputs in (1, 3, 9):
        vit = Pooled(head="own", mlp=mlp)
        vit.outputs = outputs
        path = save(vit, tmp_path)
        graph = load_graph(path, partition=True)
        assert graph.host is not None and graph.host.macs == outputs * CHANNELS
        exact = graph.host.macs / (graph.host.macs + shape_graph(graph).macs)
        found = share(path)
        assert found is not None and exact <= found < 1.3 * exact


def test_one_percent_is_the_limit(tmp_path: Path) -> None:
    """More classes until the head is too large to go by itself."""
    taken = []
    for outputs in range(1, 20):
        vit = Pooled(head="own", mlp="loop")
        vit.outputs = outputs
        path = save(vit, tmp_path)
        found = share(path)
        assert found is not None
        if found < MOST_SHARE:
            assert load_graph(path).host is not None
        else:
            with pytest.raises(UserError, match="compile with --partition to leave all nodes"):
                load_graph(path)
            assert load_graph(path, partition=True).host is not None
        taken.append(found < MOST_SHARE)
    assert True in taken and taken == sorted(taken, reverse=True) and not taken[-1]


def test_products_that_are_not_counted_need_the_option(tmp_path: Path) -> None:
    path = HeadedVit(head="branch").save(tmp_path)
    assert share(path) is None
    with pytest.raises(UserError, match="compile with --partition"):
        load_graph(path)


def test_layers_that_are_not_taken_are_no_tail(tmp_path: Path) -> None:
    """However small they are."""

    class Going(HeadedVit):
        def finish(self, x: str, count: int) -> str:
            return self.op("ReduceMean", self.op("Add", x, self.op("Elu", x)))

    with pytest.raises(UserError, match="Elu"):
        load_graph(Going(head="own").save(tmp_path))
