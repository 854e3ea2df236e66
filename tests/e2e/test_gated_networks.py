"""SwiGLU, sigmoid gates and shared experts with a gate: a torch module to bit-exact RTL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from moesaic.spec.bundle import load_bundle
from moesaic.spec.intgraph import IntDense, IntMoe

from .conftest import moesaic
from .test_renormalised_streams import DIM, Block, Network

EXPERTS = 4


class Pairs(nn.Module):
    """``down(activation(a) * b)``, a and b from one product."""

    def __init__(self, hidden: int, activation: str) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(DIM, 2 * hidden), nn.Linear(hidden, DIM)
        self.activation = getattr(functional, activation)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, -1)
        out: Tensor = self.down(self.activation(a) * b)
        return out


class Mixture(nn.Module):
    """As Qwen2-MoE, with the sigmoids of DeepSeek-V3: two of four experts, and one shared."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.router, self.gate = nn.Linear(DIM, EXPERTS), nn.Linear(DIM, 1)
        self.experts = nn.ModuleList(Pairs(24, activation) for _ in range(EXPERTS))
        self.shared = Pairs(40, activation)

    def forward(self, x: Tensor) -> Tensor:
        values, index = self.router(x).sigmoid().topk(2, -1)
        values = 1.5 * values / values.sum(-1, keepdim=True)
        weights = torch.zeros_like(self.router(x)).scatter(-1, index, values)
        parts = [weights[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts)]
        total: Tensor = sum(parts[1:], parts[0])
        return total + self.gate(x).sigmoid() * self.shared(x)


class Gated(Block):
    """A block with another feed-forward part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__(post=False)
        self.part = part

    def perceptron(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x)
        return out


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gated_network_is_bit_exact(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(5)
    network = Network(before=False, post=False)
    network.blocks = nn.Sequential(Gated(Pairs(70, activation)), Gated(Mixture(activation)))
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
    _, dense, _, first, second = graph.layers
    assert isinstance(dense, IntDense) and dense.mlp.paired
    assert isinstance(first, IntMoe) and isinstance(second, IntMoe) and second.parallel
    assert first.sigmoid and second.sigmoid and {first.top_k, second.top_k} == {1, 2}
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    (verdict,) = json.loads(done.out)["tasks"].values()
    assert verdict["bit_exact"] and verdict["sqnr_db"] > 22
