"""Estimates of deeper models from files of their first blocks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moesaic.compiler.estimate.models import deeper_shapes_of_onnx, shapes_of_onnx
from moesaic.compiler.estimate.repeat import Blocks, repeat_blocks
from moesaic.compiler.frontend import load_graph
from moesaic.models.config import preset
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model
from moesaic.spec.errors import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """M3ViT with alternating MLPs and mixtures: a block is a pair of its layers."""
    folder = tmp_path_factory.mktemp("deeper")
    result = {}
    for depth in (4, 5, 8):
        model = random_model(replace(preset("nano"), depth=depth), seed=depth)
        result[depth] = folder / f"{depth}.onnx"
        export_onnx(model, "seg", result[depth])
    return result


def estimate(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moesaic.cli", "estimate", str(path), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_deeper_model_is_estimated_as_its_own_file(files: dict[int, Path]) -> None:
    few, deeper = deeper_shapes_of_onnx(files[4], Blocks(2, 4))
    whole = shapes_of_onnx(files[8])["default"]
    assert len(few["default"].layers) == 8 and few["default"].macs < whole.macs
    assert deeper["default"].macs == whole.macs and len(deeper["default"].layers) == 16
    words = ("--targets", "nano,zcu102", "--json")
    found, right = (
        json.loads(done.stdout)["targets"]
        for done in (estimate(files[4], "--blocks", "2:4", *words), estimate(files[8], *words))
    )
    for one, other in zip(found, right, strict=True):
        got, wanted = one["tasks"]["default"], other["tasks"]["default"]
        assert got["macs"] == wanted["macs"]
        # The schedule is that of the few blocks: the cost model may know a slightly better one.
        assert wanted["cycles"] * 0.999 <= got["cycles"] <= wanted["cycles"] * 1.01


def test_as_many_blocks_as_the_file_has_are_the_file(files: dict[int, Path]) -> None:
    graph = load_graph(files[4])
    assert repeat_blocks(graph, Blocks(2, 2)).layers == graph.layers


def test_blocks_that_differ_are_refused(files: dict[int, Path]) -> None:
    """Five layers of M3ViT end with an MLP alone; three blocks are none of eight layers either."""
    graph = load_graph(files[5])
    with pytest.raises(UserError, match=r"must be 3 blocks of equal sizes for --blocks"):
        repeat_blocks(graph, Blocks(3, 6))
    done = estimate(files[4], "--targets", "nano", "--blocks", "4:6")
    assert done.returncode == 2 and "must be 4 blocks of equal sizes" in done.stderr


@pytest.mark.parametrize("text", ["", "2", "1:4", "4:2", "a:b", "2:3:4", "-2:4"])
def test_blocks_are_a_pair(text: str) -> None:
    with pytest.raises(UserError, match="--blocks takes how many blocks"):
        Blocks.read(text)


def test_blocks_are_for_models_and_targets(files: dict[int, Path], tmp_path: Path) -> None:
    done = estimate(files[4], "--target", "nano", "--blocks", "2:4")
    assert done.returncode == 2 and "--blocks is for an ONNX model and --targets" in done.stderr
