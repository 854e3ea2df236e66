"""M3ViT: a vision transformer with task-gated experts and a head for each task."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.config import M3ViTConfig, preset
from moesaic.models.heads import HEADS
from moesaic.models.layers import Block, Mlp, MoE
from moesaic.models.packing import pack, unpack

CHECKPOINTS = Path(__file__).parent / "checkpoints"


class M3ViT(nn.Module):
    """The multi-task network. A forward pass serves one task.

    From the first MoE layer on, the backbone runs once per task, because the gates differ by
    task; all other weights are shared.
    """

    def __init__(self, config: M3ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        head = HEADS[config.head]
        self.heads = nn.ModuleDict({task: head(config, c) for task, c in config.tasks})

    def forward(self, image: Tensor, task: str) -> Tensor:
        """Run one task.

        Parameters
        ----------
        image
            (N, 3, H, W) float32, normalised as `scenes.normalise` does.
        task
            A name of `config.tasks`.

        Returns
        -------
        Tensor
            (N, channels, H, W): class logits for 'seg', encoded depth for 'depth'.
        """
        features = self.gated(self.shared(image), task)
        return self.heads[task](features, self.grid_of(image))

    def grid_of(self, image: Tensor) -> tuple[int, int]:
        """Patches per column and per row of an image, which may be smaller than the model's."""
        return image.shape[-2] // self.config.patch, image.shape[-1] // self.config.patch

    def shared(self, image: Tensor) -> Tensor:
        """Run what is the same for all tasks: everything before the first gate.

        Maps (N, 3, H, W) to (N, T, dim). Images of another size than the model's are for
        training: the position embeddings are averaged over the patches that coincide.
        """
        x = self.patch_embed(image).flatten(2).transpose(1, 2)
        if self.config.class_token:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self._positions(self.grid_of(image))
        first = self._first_gate()
        for block in self.blocks[:first]:
            x = block(x, "")
        return self.blocks[first].attend(x) if first < len(self.blocks) else x

    def gated(self, x: Tensor, task: str) -> Tensor:
        """Run the rest of the backbone on what `shared` returned.

        Returns (N, patches, dim): the class token is dropped.
        """
        first = self._first_gate()
        if first < len(self.blocks):
            x = self.blocks[first].transform(x, task)
        for block in self.blocks[first + 1 :]:
            x = block(x, task)
        return x[:, 1:] if self.config.class_token else x

    def _first_gate(self) -> int:
        """Index of the first MoE block, or the number of blocks."""
        blocks = range(self.config.depth)
        return next((layer for layer in blocks if self.config.is_moe(layer)), self.config.depth)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.config.grid:
            return self.position
        extra = int(self.config.class_token)
        patches = self.position[:, extra:].transpose(1, 2).unflatten(2, self.config.grid)
        patches = F.interpolate(patches, size=grid, mode="area").flatten(2).transpose(1, 2)
        return torch.cat([self.position[:, :extra], patches], dim=1)

    def moe_layers(self) -> list[MoE]:
        """Return the MoE layers in order."""
        return [block.mlp for block in self.blocks if isinstance(block.mlp, MoE)]


@torch.no_grad()
def initialise(model: M3ViT, seed: int) -> None:
    """Draw weights for training: truncated normal of 0.02, zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        elif not name.endswith("weight"):  # a LayerNorm's weight stays 1
            parameter.zero_()


@torch.no_grad()
def random_model(config: M3ViTConfig, seed: int) -> M3ViT:
    """Return an untrained model that behaves like a trained one, in evaluation mode.

    Weights are scaled by fan-in so that every part matters at any size: scores spread over a
    few units (attention is neither flat nor one-hot), tokens choose different experts with
    clear gate weights, no LayerNorm or bias is trivial. Equal seeds give equal models.
    """
    generator = torch.Generator().manual_seed(seed)
    model = M3ViT(config).eval()
    _randomise(model, generator)
    for parameter in (model.position, *([model.class_token] if config.class_token else [])):
        _draw(parameter, 0.5, 0.0, generator)
    for block in model.blocks:
        # Queries and keys: scores of standard deviation about 2 instead of 1.
        block.attention.qkv.weight[: 2 * config.dim] *= 1.5
        if isinstance(block.mlp, Mlp):
            continue
        for gate in block.mlp.gates.values():
            gate.weight *= 1.5
    return model


def _draw(parameter: Tensor, std: float, mean: float, generator: torch.Generator) -> None:
    nn.init.trunc_normal_(parameter, mean, std, mean - 2 * std, mean + 2 * std, generator)


def _randomise(part: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear layers, convolutions and norms in a part of a model."""
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            _draw(module.weight, fan_in**-0.5, 0.0, generator)
            if module.bias is not None:
                _draw(module.bias, 0.1, 0.0, generator)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            _draw(module.weight, 0.2, 1.0, generator)
            _draw(module.bias, 0.1, 0.0, generator)
            if isinstance(module, nn.BatchNorm2d):
                _draw(module.running_mean, 0.1, 0.0, generator)
                _draw(module.running_var, 0.1, 0.5, generator)


@torch.no_grad()
def with_upsample_heads(model: M3ViT, width: int, seed: int) -> M3ViT:
    """Return the backbone of `model` with random up-sampling heads, in evaluation mode.

    Parameters
    ----------
    model
        Any; it is left as it is.
    width
        Channels of the heads' convolutions; M3ViT has 256.
    seed
        Equal seeds give equal heads.
    """
    config = dataclasses.replace(model.config, head="upsample", head_width=width)
    result = M3ViT(config).eval()
    weights = result.state_dict()
    own = {name for name in weights if name.startswith("heads.")}
    weights |= {k: v for k, v in model.state_dict().items() if k in weights and k not in own}
    result.load_state_dict(weights)
    _randomise(result.heads, torch.Generator().manual_seed(seed))
    return result


def save_checkpoint(model: M3ViT, path: Path, bits: int = 32) -> None:
    """Write configuration and weights; `load_checkpoint` reads them.

    With 16 or 8 bits (see `packing.pack`) the file is smaller and what it holds is another
    model, with rounded weights: measure that one.
    """
    weights = pack(model.state_dict(), bits)
    torch.save({"config": model.config.to_dict(), "weights": weights}, path)


def load_checkpoint(path: Path) -> M3ViT:
    """Return the model of a checkpoint in evaluation mode.

    Raises
    ------
    ValueError
        The file is missing or is no checkpoint of this module.
    """
    try:
        # weights_only: a checkpoint must not be able to run code.
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        model = M3ViT(M3ViTConfig.from_dict(stored["config"]))
        model.load_state_dict(unpack(stored["weights"]))
    except FileNotFoundError:
        raise ValueError(f"checkpoint {path} must exist: train one or name another") from None
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} must be a file of models.train: {error}") from error
    return model.eval()


def trained_model(name: str = "nano") -> M3ViT:
    """Return the trained model of a preset that comes with the project."""
    preset(name)
    return load_checkpoint(CHECKPOINTS / f"{name}.pt")
