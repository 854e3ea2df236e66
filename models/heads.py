"""The task heads: one linear layer per patch, or M3ViT's own up-sampling decoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.config import M3ViTConfig
from moesaic.models.layers import LAYER_NORM_EPS


class PatchHead(nn.Module):
    """LayerNorm and one linear layer per patch, laid out as pixels.

    M3ViT's own decoder (four convolutions at growing resolution) costs eight backbones;
    this head costs one linear layer.
    """

    def __init__(self, config: M3ViTConfig, channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.channels = channels
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.linear = nn.Linear(config.dim, config.patch * config.patch * channels)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (N, patches, dim), `grid` rows and columns of them, to (N, channels, H, W).

        A patch's linear outputs are ordered (row, column, channel).
        """
        rows, columns = grid
        pixels = self.linear(self.norm(x))
        pixels = pixels.reshape(-1, rows, columns, self.patch, self.patch, self.channels)
        pixels = pixels.permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(-1, self.channels, rows * self.patch, columns * self.patch)


class UpsampleHead(nn.Module):
    """The progressive up-sampling decoder of SETR (SETR-PUP), which M3ViT puts on its backbone.

    LayerNorm, tokens laid out as a grid, then for every factor of two up to the image: 3x3
    convolution of `config.head_width` channels, BatchNorm, ReLU, bilinear up-sampling by two; at
    last a 1x1 convolution to the task's channels.
    """

    def __init__(self, config: M3ViTConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        stages, inputs = [], config.dim
        for _ in range(config.patch.bit_length() - 1):
            convolution = nn.Conv2d(inputs, config.head_width, 3, padding=1)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(config.head_width)))
            inputs = config.head_width
        self.stages = nn.ModuleList(stages)
        self.last = nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (N, patches, dim), `grid` rows and columns of them, to (N, channels, H, W)."""
        x = self.norm(x).transpose(1, 2).reshape(x.shape[0], -1, *grid)
        for stage in self.stages:
            x = F.relu(stage(x))
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(x)


HEADS = {"patch": PatchHead, "upsample": UpsampleHead}
"""By the names that `M3ViTConfig.head` takes."""
