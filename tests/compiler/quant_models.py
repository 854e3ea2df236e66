"""Float graphs for the quantiser's tests, straight from torch modules: no ONNX in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from moesaic.compiler import ir
from moesaic.models.config import M3ViTConfig
from moesaic.models.layers import Block, Mlp
from moesaic.models.m3vit import M3ViT, random_model

SMALL = M3ViTConfig(
    height=32,
    width=48,
    patch=8,
    dim=40,
    depth=2,
    heads=5,
    experts=5,
    expert_hidden=24,
    top_k=2,
)
"""25 tokens, dimensions that are multiples of nothing."""


def _array(tensor: torch.Tensor) -> ir.FloatArray:
    return tensor.detach().numpy().astype(np.float32)


def _linear(module: nn.Linear, name: str) -> ir.Linear:
    outputs = module.weight.shape[0]
    bias = module.bias if module.bias is not None else torch.zeros(outputs)
    return ir.Linear(_array(module.weight), _array(bias), name)


def _norm(module: nn.LayerNorm, name: str) -> ir.Norm:
    return ir.Norm(_array(module.weight), _array(module.bias), module.eps, name)


def _attention(block: Block, heads: int, name: str) -> ir.Attention:
    module = block.attention
    weights, biases = module.qkv.weight.chunk(3), module.qkv.bias.chunk(3)
    query, key, value = (
        ir.Linear(_array(weight), _array(bias), f"{name}/{part}")
        for weight, bias, part in zip(weights, biases, ("query", "key", "value"), strict=True)
    )
    size = module.head_dim
    output = _linear(module.proj, f"{name}/output")
    norm = _norm(block.norm1, f"{name}/norm")
    return ir.Attention(norm, query, key, value, output, heads, size, size, size**-0.5, name)


def _mlp(module: Mlp, norm: ir.Norm, name: str) -> ir.Mlp:
    return ir.Mlp(
        norm, _linear(module.fc1, f"{name}/up"), _linear(module.fc2, f"{name}/down"), name
    )


def float_graph(model: M3ViT, task: str) -> ir.Graph:
    """One task of a reference model as the frontend would read it."""
    config = model.config
    rows, columns = config.grid
    shape = (1, 3, config.height, config.width)
    pixels = np.arange(np.prod(shape)).reshape(3, rows, config.patch, columns, config.patch)
    gather = pixels.transpose(1, 3, 0, 2, 4).reshape(config.patches, -1)
    first = int(config.class_token)
    initial = _array(model.position[0]).copy()
    if config.class_token:
        initial[0] += _array(model.class_token[0, 0])
    layers: list[ir.Layer] = []
    for number, block in enumerate(model.blocks):
        layers.append(_attention(block, config.heads, f"blocks.{number}.attention"))
        norm, name = _norm(block.norm2, f"blocks.{number}.norm2"), f"blocks.{number}.mlp"
        if isinstance(block.mlp, Mlp):
            layers.append(_mlp(block.mlp, norm, name))
            continue
        experts = [_mlp(e, norm, f"{name}.expert{i}") for i, e in enumerate(block.mlp.experts)]
        gate = _linear(block.mlp.gates[task], f"{name}.gate")
        renormalise = config.gate_mode == "softmax_topk_renorm"
        layers.append(ir.Moe(norm, gate, config.top_k, renormalise, experts, name))
    conv = model.patch_embed
    embed = ir.Linear(_array(conv.weight.flatten(1)), _array(conv.bias), "patch_embed")
    channels, patch = config.channels(task), config.patch
    codes = np.arange(config.patches * patch * patch * channels)
    codes = codes.reshape(rows, columns, patch, patch, channels).transpose(4, 0, 2, 1, 3)
    head = model.heads[task]
    return ir.Graph(
        source=f"{task}.onnx",
        input_name="image",
        input_shape=shape,
        embed=ir.Embed(embed, gather, initial, first, "patch_embed"),
        layers=layers,
        heads=[
            ir.Head(
                _norm(head.norm, "head.norm"),
                _linear(head.linear, "head.linear"),
                first,
                config.patches,
                codes.reshape(-1),
                f"heads.{task}",
                task,
                (1, channels, config.height, config.width),
                len(layers),
            )
        ],
    )


def random_graph(config: M3ViTConfig = SMALL, seed: int = 0, task: str = "seg") -> ir.Graph:
    """A task of a random model that behaves like a trained one."""
    return float_graph(random_model(config, seed), task)


def random_samples(config: M3ViTConfig = SMALL, count: int = 4, seed: int = 1) -> np.ndarray:
    """Smooth random images: neighbouring pixels agree, as in a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-2, 2, (count, 3, config.height // 4, config.width // 4))
    fine = coarse.repeat(4, -1).repeat(4, -2)
    return (fine + rng.normal(0, 0.1, fine.shape)).clip(-2, 2).astype(np.float32)


def dense_graph(seed: int = 0, task: str = "seg") -> ir.Graph:
    """A random task without gates: no token can choose another expert, so that small errors have
    small effects."""
    graph = random_graph(seed=seed, task=task)
    layers = [layer.experts[0] if isinstance(layer, ir.Moe) else layer for layer in graph.layers]
    return replace(graph, layers=layers, streams=[])
