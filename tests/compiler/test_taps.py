"""Several outputs of a task, and features of several layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.compiler import ir
from moesaic.compiler.driver import compile
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.compare import open_oracle
from moesaic.host.session import Session
from moesaic.inference_session import InferenceSession
from moesaic.spec.errors import UserError
from moesaic.spec.metrics import sqnr_db
from tests.compiler.onnx_taps import CHANNELS, images, save
from tests.compiler.validated import compare, read_validated


def test_heads_read_the_stream_behind_their_layers(tmp_path: Path) -> None:
    graph, found = read_validated(save("heads", tmp_path))
    assert graph.host is None and found.worst < 0.25
    assert [head.tensor for head in graph.heads] == ["y0", "y1", "y2", "y3"]
    assert [head.depth for head in graph.heads] == [6, 2, 0, 4]
    assert [head.norm.plain for head in graph.heads] == [False, False, True, True]
    assert [head.shape for head in graph.heads][1:] == [
        (1, CHANNELS, 4, 4), (1, 17, CHANNELS), (1, 17, CHANNELS),
    ]  # fmt: skip
    assert [(head.first_row, head.rows) for head in graph.heads] == [
        (0, 1), (1, 16), (0, 17), (0, 17),
    ]  # fmt: skip


def test_decoder_of_several_layers_is_the_hosts(tmp_path: Path) -> None:
    path = save("decoder", tmp_path)
    with pytest.raises(UserError, match="--partition"):
        load_graph(path)
    graph = load_graph(path, partition=True)
    assert compare(graph, path).worst < 0.25
    assert graph.host is not None and graph.host.outputs == ["y0"]
    assert [head.depth for head in graph.heads] == [2, 4, 6]
    assert {node.operator for node in graph.host.nodes} == {"Conv", "Relu", "Add"}


def test_class_token_beside_every_patch_is_one_row_of_a_head(tmp_path: Path) -> None:
    """A head's layout may have a value many times."""
    path = save("readout", tmp_path)
    graph = load_graph(path, partition=True)
    assert compare(graph, path).worst < 0.25
    assert [(head.depth, head.first_row, head.rows) for head in graph.heads] == [
        (2, 0, 17), (4, 0, 17), (6, 0, 17),
    ]  # fmt: skip
    assert {head.shape for head in graph.heads} == {(1, 16, 2 * CHANNELS)}
    compile(path, "nano", images(12), tmp_path / "bundle", partition=True)
    x = images(3, seed=1)
    with Session(tmp_path / "bundle") as session:
        answer = session.run({"x": x})["y0"]
    exact = open_oracle(path, graph).run(x)["y0"]
    assert answer.shape == exact.shape and sqnr_db(exact.astype(np.float32), answer) > 25


Change = Callable[[ir.Graph], Any]
CHANGES: dict[str, Change] = {
    "weight": lambda g: g.heads[3].linear.weight.__imul__(1.01),
    "bias of the first stream": lambda g: g.heads[2].linear.bias.__iadd__(0.01),
    "another layer": lambda g: setattr(g.heads[1], "depth", 4),
    "another row": lambda g: setattr(g.heads[1], "first_row", 0),
    "places": lambda g: g.heads[1].permutation.__setitem__([0, 1], g.heads[1].permutation[[1, 0]]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_head_is_compared_with_the_file(tmp_path: Path, name: str) -> None:
    path = save("heads", tmp_path)
    graph = load_graph(path)
    compare(graph, path)
    CHANGES[name](graph)
    with pytest.raises(UserError, match=r"the head at .* was not recognised"):
        compare(graph, path)


@pytest.mark.parametrize("kind", ["heads", "both", "classes"])
def test_outputs_come_by_name_in_the_order_of_the_file(tmp_path: Path, kind: str) -> None:
    path = save(kind, tmp_path)
    report = compile(path, "nano", images(12), tmp_path / "bundle", partition=True)
    task = report["tasks"]["default"]
    x = images(3, seed=1)
    with Session(tmp_path / "bundle") as session:
        answer = session.run({"x": x})
        alone = session.run(["y1"], {"x": x})
    exact = open_oracle(path, load_graph(path, partition=True)).run(x)
    names = list(answer)
    assert names == list(task["outputs_db"]) == [f"y{n}" for n in range(len(names))]
    assert task["sqnr_db"] == min(task["outputs_db"].values())
    for name, value in answer.items():
        assert value.shape == exact[name].shape
        if kind != "classes" or name == "y0":
            assert sqnr_db(exact[name].astype(np.float32), value) > 25
    assert list(alone) == ["y1"] and np.array_equal(alone["y1"], answer["y1"])
    with InferenceSession(tmp_path / "bundle") as like:
        assert [output.name for output in like.get_outputs()] == names
        first, last = like.run([names[-1], names[0]], {"x": x})
        assert np.array_equal(first, answer[names[-1]]) and np.array_equal(last, answer[names[0]])


def test_small_tail_behind_one_output_goes_to_the_host(tmp_path: Path) -> None:
    graph = load_graph(save("classes", tmp_path))
    assert graph.host is not None and [n.operator for n in graph.host.nodes] == ["ArgMax"]
    assert graph.host.outputs == ["y0", "y1"] and graph.heads[0].tensor == "y0"
