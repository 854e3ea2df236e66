"""Small vision transformers whose fronts the accelerator does not take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.tracing import INPUT_NAME

IMAGE, PATCH, CHANNELS, HEADS = 32, 8, 32, 2


class Block(nn.Module):
    """A layer of a plain trunk, on [1, tokens, channels]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 64), nn.Linear(64, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(self.norm1(x)).reshape(1, -1, 3, HEADS, CHANNELS // HEADS)
        query, key, value = rows.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * (CHANNELS // HEADS) ** -0.5).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(1, -1, CHANNELS))
        hidden: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + hidden


class Fronted(nn.Module):
    """``front`` makes an image a stream [1, tokens, channels]; behind it a trunk and a head."""

    def __init__(self, front: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.front = front
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = head or nn.Linear(CHANNELS, 5)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(self.blocks(self.front(image))))
        return result


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class Positions(nn.Module):
    """A class token in front of what ``stem`` makes, and position embeddings on all."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.register = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.randn(1, (IMAGE // PATCH) ** 2 + 1, CHANNELS))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.register, _tokens(self.stem(image))], 1) + self.position


class Convolutions(nn.Sequential):
    """Overlapping convolutions, as in hybrids and LeViT."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, CHANNELS, 3, 2, 1),
        )  # fmt: skip


class NormThenClass(nn.Module):
    """A LayerNorm of patches, and the class token behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.norm = nn.LayerNorm(CHANNELS)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.token, self.norm(_tokens(self.patches(image)))], 1)


class Modalities(nn.Module):
    """Colours and depth, embedded each on its own, one behind the other; each has its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(2, CHANNELS, PATCH, PATCH)
        self.depth = nn.Conv2d(1, CHANNELS, 2 * PATCH, 2 * PATCH)
        self.kind = nn.Parameter(torch.randn(1, 2, CHANNELS))

    def forward(self, image: Tensor) -> Tensor:
        colours, depth = _tokens(self.colours(image[:, :2])), _tokens(self.depth(image[:, 2:]))
        return torch.cat([colours + self.kind[:, :1], depth + self.kind[:, 1:]], 1)


class Masked(nn.Module):
    """Patches whose mean is low are taken for missing: a mask token in their place, as in MAE."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.randn(1, (IMAGE // PATCH) ** 2, CHANNELS))

    def forward(self, image: Tensor) -> Tensor:
        rows = _tokens(self.patches(image))
        missing = (rows.mean(-1, keepdim=True) < 0).to(rows.dtype)
        return rows * (1 - missing) + self.token * missing + self.position


class Pruned(nn.Module):
    """Of the patches the eight with the largest norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        rows = _tokens(self.patches(image))
        chosen = rows.square().sum(-1).topk(8, dim=1).indices
        return rows.gather(1, chosen[:, :, None].expand(-1, -1, CHANNELS))


class Interpolated(nn.Module):
    """Position embeddings that are resized inside the graph, and scaled by the image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.grid = nn.Parameter(torch.randn(1, CHANNELS, 7, 7))

    def forward(self, image: Tensor) -> Tensor:
        rows = self.patches(image)
        grid = self.grid * image.mean((1, 2, 3), keepdim=True)
        place = F.interpolate(grid, size=(IMAGE // PATCH, IMAGE // PATCH), mode="bilinear")
        return _tokens(rows + place)


def _padded() -> nn.Module:
    return Positions(nn.Conv2d(3, CHANNELS, 10, PATCH, 2))


def _overlapping() -> nn.Module:
    return Positions(nn.Conv2d(3, CHANNELS, PATCH + 3, PATCH, 2))


FRONTS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: Positions(Convolutions()),
    "norm, then class token": NormThenClass,
    "two modalities": Modalities,
    "mask tokens": Masked,
    "pruned tokens": Pruned,
    "interpolated positions": Interpolated,
    "padded patches": _padded,
    "overlapping patches": _overlapping,
}


class Upsampled(nn.Module):
    """A head that the host runs: tokens to a map, a convolution, twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, rows: Tensor) -> Tensor:
        side = IMAGE // PATCH
        maps = rows.transpose(1, 2).reshape(1, CHANNELS, side, side)
        return F.interpolate(self.convolution(maps), scale_factor=2.0, mode="bilinear")


def write(model: nn.Module, path: Path) -> nn.Module:
    """Export a model; returns it ready to run."""
    image = torch.zeros(1, 3, IMAGE, IMAGE)
    torch.onnx.export(
        model.eval(), (image,), path, dynamo=False, input_names=[INPUT_NAME], opset_version=17
    )
    return model
