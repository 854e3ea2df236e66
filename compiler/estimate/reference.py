"""The models by which targets are compared, by their sizes: no file and no values are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler.estimate.shapes import SCALE, zero_linear
from moesaic.spec.activations import FINEST_STEP, tabulate
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLayer,
    IntMlp,
    IntMoe,
    IntNorm,
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Sizes of an M3ViT: every other block, from the second on, is a mixture of experts.

    Attributes
    ----------
    name
        As the documents call it.
    height, width, patch
        Of an image of three colours, and the side of a square patch, in pixels.
    channels, blocks, heads
        Of the stream; attention and what follows it, so often; of each attention.
    experts, top_k, expert_hidden
        Of a mixture: experts, those of a token, and hidden channels of each. Dense layers have
        four times ``channels``.
    outputs
        Channels of every pixel: classes of a segmentation.
    """

    name: str
    height: int
    width: int
    patch: int = 16
    channels: int
    blocks: int
    heads: int = 3
    experts: int
    top_k: int = 2
    expert_hidden: int
    outputs: int = 7


REFERENCES = (
    Reference(
        name="M3ViT-T",
        height=128,
        width=256,
        channels=192,
        blocks=12,
        experts=16,
        expert_hidden=384,
    ),
    Reference(
        name="M3ViT nano", height=64, width=128, channels=96, blocks=6, experts=8, expert_hidden=192
    ),
)
"""The largest first: a target is rated by the first one that it holds. Segmentation, in 8 bits."""


def reference_graph(model: Reference) -> IntGraph:
    """The integer graph of a model's frame, with all sizes and no values."""
    pixels = 3 * model.patch**2
    patches = model.height * model.width // model.patch**2
    norm = IntNorm(model.channels, 0, SCALE)
    embed = IntEmbed(
        zero_linear(model.channels, pixels), np.zeros((patches + 1, model.channels), np.int16), 1
    )
    layers: list[IntLayer] = []
    for block in range(model.blocks):
        layers.append(_attention(model, norm, f"attention{block}"))
        layers.append(_mixture(model, norm, block) if block % 2 else _dense(model, norm, block))
    head_outputs = model.outputs * model.patch**2
    head = IntHead(
        name="output",
        shape=(1, model.outputs, model.height, model.width),
        scale=1.0,
        permutation=np.arange(patches * head_outputs),
        depth=len(layers),
        norm=norm,
        linear=zero_linear(head_outputs, model.channels),
        first_row=1,
        rows=patches,
    )
    return IntGraph(
        task="default",
        input_name="image",
        input_shape=(1, 3, model.height, model.width),
        input_scale=1.0,
        gather=np.arange(patches * pixels).reshape(patches, pixels),
        residual_scale=1.0,
        embed=embed,
        layers=tuple(layers),
        heads=(head,),
        macs=count_macs(embed, tuple(layers), (head,), patches),
    )


def _attention(model: Reference, norm: IntNorm, name: str) -> IntAttention:
    query, key, value, output = (zero_linear(model.channels, model.channels) for _ in range(4))
    each = model.channels // model.heads
    return IntAttention(
        norm, query, key, value, output, model.heads, each, each, SCALE, SCALE, name
    )


def _mlp(model: Reference, hidden: int) -> IntMlp:
    activation = IntActivation.of(tabulate("gelu", FINEST_STEP))
    up, down = zero_linear(hidden, model.channels), zero_linear(model.channels, hidden)
    return IntMlp(up, activation, SCALE, down)


def _dense(model: Reference, norm: IntNorm, block: int) -> IntDense:
    return IntDense(norm, _mlp(model, 4 * model.channels), f"mlp{block}")


def _mixture(model: Reference, norm: IntNorm, block: int) -> IntMoe:
    experts = tuple(_mlp(model, model.expert_hidden) for _ in range(model.experts))
    gate = zero_linear(model.experts, model.channels)
    return IntMoe(norm, gate, model.top_k, False, SCALE, experts, f"moe{block}")
