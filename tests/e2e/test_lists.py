"""Experts by modality and by place: a torch module to bit-exact RTL."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig
from moesaic.spec.bundle import load_bundle
from moesaic.spec.intgraph import IntDense
from tests.compiler.test_lists import SHAPE, listed

from .conftest import moesaic
from .test_gated_networks import Gated
from .test_renormalised_streams import DIM, Network
from .test_rtl_corners import IDEAL, NANO, run

HIDDEN, FIRST = 40, 5


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(DIM, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, DIM))


class Modalities(nn.Module):
    """An expert for the first tokens, one for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = x[:, :FIRST], x[:, FIRST:]
        return torch.cat([f(part) for f, part in zip(self.experts, parts, strict=True)], 1)


class Hash(nn.Module):
    """Three experts by place, and none for every fourth token."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        number = (torch.arange(x.shape[1]) * 3 % 4)[:, None]
        parts = [torch.where(number == e, f(x), 0.0) for e, f in enumerate(self.experts)]
        total: Tensor = sum(parts[1:], parts[0])
        return total


@pytest.mark.parametrize(("part", "layers"), [(Modalities, 2), (Hash, 3)])
def test_lists_are_bit_exact(tmp_path: Path, part: type[nn.Module], layers: int) -> None:
    torch.manual_seed(7)
    network = Network(before=False, post=False)
    network.blocks = nn.Sequential(Gated(part()), Gated(part()))
    image = torch.randn(1, 3, 24, 32)
    path, samples = tmp_path / "model.onnx", tmp_path / "samples.npz"
    torch.onnx.export(
        network.eval(), (image,), path, dynamo=True, external_data=False, verbose=False
    )
    rng = np.random.default_rng(1)
    np.savez(samples, x=rng.standard_normal((12, 3, 24, 32)).astype(np.float32))
    bundle = tmp_path / "bundle"
    done = moesaic("compile", path, "--target", "nano", "--calibrate", samples, "-o", bundle)
    assert done.code == 0, done.err
    (graph,) = load_bundle(bundle).graphs.values()
    lists = [layer for layer in graph.layers if isinstance(layer, IntDense)]
    assert len(lists) == 2 * layers and all(layer.tokens is not None for layer in lists)
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    (verdict,) = json.loads(done.out)["tasks"].values()
    assert verdict["bit_exact"] and verdict["sqnr_db"] > 25


@pytest.mark.parametrize(
    "lists",
    [[range(10), range(10, 30)], [list(range(e, 30, 4)) for e in range(4)], [[0]]],
    ids=["modalities", "hash", "class-token"],
)
def test_cost_model_knows_the_rows_of_lists(lists: list[list[int]]) -> None:
    shape = dataclasses.replace(
        SHAPE, hidden=200, channels=64, heads=2, head_dim=32, value_dim=32, wide=0.0
    )
    graph = listed(*lists, shape=shape)
    counters = run(graph, NANO, 2, DramConfig.ideal())
    schedules = {"task": first_schedule(NANO)}
    estimated = estimate_graphs({"task": graph}, NANO, memory=IDEAL, schedules=schedules)["task"]
    assert abs(estimated.cycles / counters["CYCLES"] - 1) < 0.01
