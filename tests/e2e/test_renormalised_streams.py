"""CLIP's norm behind the embedding and post-norm layers: torch modules to bit-exact RTL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from .conftest import moesaic

DIM, HEADS, TOKENS = 40, 2, 13


class Block(nn.Module):
    """x + f(norm(x)), or norm(x + f(x))."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.norms = nn.ModuleList([nn.LayerNorm(DIM), nn.LayerNorm(DIM)])
        self.joint, self.output = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.up, self.down = nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)

    def attend(self, x: Tensor) -> Tensor:
        joint = self.joint(x).reshape(len(x), TOKENS, 3, HEADS, DIM // HEADS)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * (DIM // HEADS) ** -0.5).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).reshape(len(x), TOKENS, DIM))

    def perceptron(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, (self.attend, self.perceptron), strict=True):
            x = norm(x + layer(x)) if self.post else x + layer(norm(x))
        return x


class Network(nn.Module):
    """Two blocks; ``before`` puts a norm behind the embedding."""

    def __init__(self, before: bool, post: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, 8, 8, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, DIM) * 0.02)
        self.position = nn.Parameter(torch.randn(1, TOKENS, DIM) * 0.02)
        self.before = nn.LayerNorm(DIM) if before else nn.Identity()
        self.blocks = nn.Sequential(Block(post), Block(post))
        self.last = nn.Identity() if post else nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, 7)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1, 0.4)
                nn.init.normal_(module.bias, 0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.last(self.blocks(self.before(x)))[:, 0])


@pytest.mark.parametrize(
    ("before", "post", "renorms"), [(True, False, 1), (False, True, 3), (True, True, 4)]
)
def test_network_is_bit_exact(tmp_path: Path, before: bool, post: bool, renorms: int) -> None:
    torch.manual_seed(before + 2 * post)
    model, file = Network(before, post).eval(), tmp_path / "model.onnx"
    x = torch.randn(1, 3, 24, 32)
    torch.onnx.export(model, (x,), file, dynamo=True, external_data=False, verbose=False)
    samples, bundle = tmp_path / "samples.npz", tmp_path / "bundle"
    np.savez(samples, x=np.random.default_rng(0).standard_normal((6, 3, 24, 32)).astype("f4"))
    done = moesaic("compile", file, "--target", "nano", "--calibrate", samples, "-o", bundle)
    assert done.code == 0, done.err
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    (task,) = json.loads(done.out)["tasks"].values()
    assert task["bit_exact"] and task["sqnr_db"] > 33
    output, stats = tmp_path / "output.npz", tmp_path / "stats.json"
    files = ("--input", samples, "--output", output, "--stats", stats)
    assert moesaic("simulate", bundle, *files).code == 0
    kinds = [layer["kind"] for layer in json.loads(stats.read_text())["layers"]]
    assert kinds.count("renorm") == renorms and kinds.count("embed") == 1
    if not (before and post):
        return  # the rest is of a kind
    assert moesaic("report", bundle, "-o", tmp_path / "report.html").code == 0
    data = ("--model", file, "--samples", samples)
    assert moesaic("accuracy", bundle, *data).code == 0
