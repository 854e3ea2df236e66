"""Vision transformers that give features of several layers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CHANNELS, GRID, LAYERS = 24, 4, 3
IMAGE = (3, 16, 16)


class Block(nn.Module):
    """Attention and an MLP on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.joint, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 2 * CHANNELS), nn.Linear(2 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        frames, count, width = x.shape
        parts = self.joint(self.first(x)).reshape(frames, count, 3, 3, width // 3)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1)) * (width // 3) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(frames, count, width)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Tapped(nn.Module):
    """``kind`` says what it gives.

    ``heads``: logits, normalised features as an image, the first stream, an inner one.
    ``decoder``: a picture that convolutions make of three layers.
    ``both``: logits, and that picture.
    ``classes``: logits, and the number of the class at every patch.
    ``readout``: a picture made of all patches, each beside the class token of its layer (DPT).
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.patches = nn.Conv2d(3, CHANNELS, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.place = nn.Parameter(torch.randn(1, GRID**2 + 1, CHANNELS) * 0.2)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.logits = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 10)
        self.fuse = nn.ModuleList(nn.Conv2d(CHANNELS, 6, 3, padding=1) for _ in range(LAYERS))
        self.last = nn.Conv2d(6, 2, 3, padding=1)
        self.join = nn.Linear(2 * CHANNELS, CHANNELS)

    def image(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).reshape(-1, CHANNELS, GRID, GRID)

    def with_class(self, tokens: Tensor) -> Tensor:
        classes = tokens[:, :1].expand(-1, GRID**2, -1)
        patches = nn.functional.gelu(self.join(torch.cat([tokens[:, 1:], classes], -1)))
        return nn.functional.pad(patches, (0, 0, 1, 0))  # a first token, which no picture has

    def decode(self, streams: list[Tensor]) -> Tensor:
        parts = [conv(self.image(x)) for conv, x in zip(self.fuse, streams, strict=True)]
        x = parts[0]
        for part in parts[1:]:
            x = nn.functional.relu(x) + part
        return self.last(nn.functional.relu(x))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        streams = [x]
        for block in self.blocks:
            streams.append(block(streams[-1]))
        if self.kind == "readout":
            return (self.decode([self.with_class(x) for x in streams[1:]]),)
        last = self.norm(streams[-1])
        logits = self.logits(last[:, 0])
        if self.kind == "heads":
            return logits, self.image(self.norm(streams[1])), streams[0], streams[2]
        if self.kind == "decoder":
            return (self.decode(streams[1:]),)
        if self.kind == "classes":
            return logits, self.logits(last[:, 1:]).argmax(-1)
        return logits, self.decode(streams[1:])


def save(kind: str, folder: Path) -> Path:
    """Export a model; its outputs are ``y0``, ``y1`` and so on."""
    path, model = folder / f"{kind}.onnx", Tapped(kind).eval()
    x = torch.zeros(1, *IMAGE)
    names = [f"y{number}" for number in range(len(model(x)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"],
            output_names=names,
        )  # fmt: skip
    return path


def images(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 3, 16, 16]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *IMAGE)).astype(np.float32)
