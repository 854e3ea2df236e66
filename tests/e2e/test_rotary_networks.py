"""Rotary position embeddings as EVA02, DINOv3 and others write them: torch modules to RTL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntAttention
from tests.compiler.validated import compare

from .conftest import moesaic
from .test_renormalised_streams import DIM, HEADS, TOKENS, Block, Network

SIZE = DIM // HEADS


def half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def every_other_turned(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)


FORMS = ("half", "interleaved", "half of all tokens", "part of a head", "scaled")


class Rotated(Block):
    """Attention whose queries and keys are rotated; ``form`` says how."""

    def __init__(self, form: str) -> None:
        super().__init__(post=False)
        self.form = form
        self.joint = nn.Linear(DIM, 3 * DIM)
        nn.init.normal_(self.joint.bias, 0, 0.5)
        self.size = SIZE - 8 if form == "part of a head" else SIZE
        first = 0 if form == "half of all tokens" else 1
        place = torch.arange(TOKENS - first)[:, None] + 1.0
        angles = place * 5.0 ** -torch.linspace(0, 1, self.size // 2)
        if form == "interleaved":
            angles = angles.repeat_interleave(2, 1)
        else:
            angles = torch.cat([angles, angles], 1)
        self.first = first
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        function = every_other_turned if self.form == "interleaved" else half_turned
        kept, rest = x[..., : self.first, :], x[..., self.first :, :]
        part, plain = rest[..., : self.size], rest[..., self.size :]
        part = part * self.cosine + function(part) * self.sine
        if plain.shape[-1]:
            part = torch.cat([part, plain], -1)
        return torch.cat([kept, part], -2) if self.first else part

    def attend(self, x: Tensor) -> Tensor:
        joint = self.joint(x).reshape(len(x), TOKENS, 3, HEADS, SIZE)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        if self.form == "scaled":
            query = query * SIZE**-0.25
            key = key * SIZE**-0.25
        query, key = self.turned(query), self.turned(key)
        scores = query @ key.transpose(-1, -2) * (1 if self.form == "scaled" else SIZE**-0.5)
        return self.output((scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape))


def exported(folder: Path, *blocks: nn.Module) -> Path:
    torch.manual_seed(6)
    network = Network(before=False, post=False)
    network.blocks = nn.Sequential(*blocks)
    path = folder / "model.onnx"
    torch.onnx.export(
        network.eval(),
        (torch.randn(1, 3, 24, 32),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised(tmp_path: Path, form: str) -> None:
    torch.manual_seed(5)
    path = exported(tmp_path, Rotated(form))
    graph = load_graph(path)
    compare(graph, path)
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention) and attention.rotary is not None
    assert attention.rotary.cosine.shape == (TOKENS, SIZE // 2)
    whole = form == "half of all tokens"
    assert (attention.rotary.sine[0] == 0).all() != whole
    attention.rotary.sine[3, 1] += 0.5  # it counts
    with pytest.raises(UserError):
        compare(graph, path)


class Unlike(Rotated):
    """Keys that are rotated the other way round."""

    def turned(self, x: Tensor) -> Tensor:
        self.sine = -self.sine
        return super().turned(x)


class Mixed(Rotated):
    """A mixture of channels that is no rotation."""

    def turned(self, x: Tensor) -> Tensor:
        return torch.cat(
            [x[..., :1, :], x[..., 1:, :] * self.cosine + x[..., 1:, :].flip(-1) * self.sine], -2
        )


@pytest.mark.parametrize(
    ("block", "message"),
    [(Unlike, "rotated alike"), (Mixed, "is no rotation: two channels are mixed")],
)
def test_what_is_no_rotation_is_refused(tmp_path: Path, block: type[Rotated], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_graph(exported(tmp_path, block("half")))


@pytest.mark.parametrize("target", ["nano", "pynq-z2"])
def test_rotary_network_is_bit_exact(tmp_path: Path, target: str) -> None:
    torch.manual_seed(5)
    path, samples = exported(tmp_path, Rotated("half"), Rotated("interleaved")), tmp_path / "s.npz"
    rng = np.random.default_rng(1)
    np.savez(samples, x=rng.standard_normal((12, 3, 24, 32)).astype(np.float32))
    bundle = tmp_path / "bundle"
    done = moesaic("compile", path, "--target", target, "--calibrate", samples, "-o", bundle)
    assert done.code == 0, done.err
    (graph,) = load_bundle(bundle).graphs.values()
    rotated = [layer for layer in graph.layers if isinstance(layer, IntAttention)]
    assert len(rotated) == 2 and all(layer.rotary is not None for layer in rotated)
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    (verdict,) = json.loads(done.out)["tasks"].values()
    assert verdict["bit_exact"] and verdict["sqnr_db"] > 22
