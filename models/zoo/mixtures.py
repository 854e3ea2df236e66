"""Mixtures of experts as people write them, in a small vision transformer of two layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.zoo.entry import Entry

CHANNELS, HEADS, HIDDEN, EXPERTS, TOP_K, SIDE, PATCH = 64, 4, 96, 8, 2, 64, 16


class Attention(nn.Module):
    """Self-attention, biased projections."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind()
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """Pre-LayerNorm attention, then a mixture."""

    def __init__(self, mixture: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.attention, self.mixture = Attention(), mixture

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        x = x + self.attention(self.first(x))
        return x + self.mixture(self.second(x))


class ParallelBlock(Block):
    """As ViT-22B: attention beside the mixture, on one LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        rows = self.first(x)
        return x + self.attention(rows) + self.mixture(rows)


class MixtureViT(nn.Module):
    """Patches, one block, a classifier of the class token."""

    def __init__(self, mixture: nn.Module, block: type[Block] = Block) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, CHANNELS))
        self.block, self.norm = block(mixture), nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, H, W] to [1, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.block(x))[:, 0])


def mlp(activation: Callable[[], nn.Module] = nn.GELU) -> nn.Module:
    """An expert."""
    return nn.Sequential(nn.Linear(CHANNELS, HIDDEN), activation(), nn.Linear(HIDDEN, CHANNELS))


class Gated(nn.Module):
    """A gated expert: SwiGLU, GEGLU, ReGLU."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(CHANNELS, HIDDEN), nn.Linear(CHANNELS, HIDDEN)
        self.down, self.activation = nn.Linear(HIDDEN, CHANNELS), activation

    def forward(self, x: Tensor) -> Tensor:
        """[T, C] to the same."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


Weights = Callable[[Tensor], Tensor]
"""Logits [T, E] to weights [T, E], zero for experts that are not chosen."""


def chosen(scores: Tensor, k: int = TOP_K, renormalise: bool = False) -> Tensor:
    """The scores of the ``k`` largest; zero elsewhere."""
    values, index = scores.topk(k, -1)
    if renormalise:
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, index, values)


def softmax_first(logits: Tensor) -> Tensor:
    """Softmax of all, the largest of it."""
    return chosen(logits.softmax(-1))


def renormalised(logits: Tensor) -> Tensor:
    """As Mixtral: the chosen sum to one."""
    return chosen(logits.softmax(-1), renormalise=True)


def softmax_last(logits: Tensor) -> Tensor:
    """As V-MoE's variants: softmax of the chosen logits."""
    values, index = logits.topk(TOP_K, -1)
    return torch.zeros_like(logits).scatter(-1, index, values.softmax(-1))


def sigmoid(logits: Tensor) -> Tensor:
    """Independent gates."""
    return chosen(logits.sigmoid())


def sigmoid_renormalised(logits: Tensor) -> Tensor:
    """As DeepSeek-V3, without its bias."""
    return chosen(logits.sigmoid(), renormalise=True) * 2.5


def corrected(logits: Tensor) -> Tensor:
    """As DeepSeek-V3: a bias for the choice only."""
    scores = logits.sigmoid()
    bias = torch.linspace(-0.1, 0.1, logits.shape[-1])
    index = (scores + bias).topk(TOP_K, -1).indices
    values = scores.gather(-1, index)
    values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, index, values)


def switch(logits: Tensor) -> Tensor:
    """As Switch: the largest, by its value."""
    scores = logits.softmax(-1)
    return torch.where(scores == scores.amax(-1, keepdim=True), scores, 0.0)


def threshold(logits: Tensor) -> Tensor:
    """All experts above a share."""
    scores = logits.softmax(-1)
    return torch.where(scores > 0.15, scores, 0.0)


def everything(logits: Tensor) -> Tensor:
    """A dense mixture."""
    return logits.softmax(-1)


def biased_task(logits: Tensor) -> Tensor:
    """As M3ViT's task-conditioned gate with the task fixed: a constant for each expert."""
    return softmax_first(logits + torch.linspace(-1, 1, logits.shape[-1]))


class Mixture(nn.Module):
    """Router, experts, and how the file sums them.

    ``form``: ``masked`` computes all experts and weighs them; ``where`` gathers an expert's tokens
    and adds them back by index, as transformers does; ``stacked`` multiplies stacked weights by
    einsum.
    """

    def __init__(
        self,
        weights: Weights,
        form: str = "masked",
        expert: Callable[[], nn.Module] = mlp,
        shared: bool | str = False,
        router: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.router = router or nn.Linear(CHANNELS, EXPERTS)
        self.weights, self.form = weights, form
        self.experts = nn.ModuleList(expert() for _ in range(EXPERTS))
        self.shared = mlp() if shared else None
        self.shared_gate = nn.Linear(CHANNELS, 1) if shared == "gated" else None
        if form == "stacked":
            self.up = nn.Parameter(torch.randn(EXPERTS, CHANNELS, HIDDEN) * CHANNELS**-0.5)
            self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, CHANNELS) * HIDDEN**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, C] to the same."""
        rows = x.flatten(0, 1)
        weights = self.weights(self.router(rows))
        total = getattr(self, f"_{self.form}")(rows, weights)
        if self.shared is not None:
            more = self.shared(rows)
            if self.shared_gate is not None:
                more = self.shared_gate(rows).sigmoid() * more
            total = total + more
        return total.reshape(x.shape)

    def _masked(self, rows: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            total = total + weights[:, number : number + 1] * expert(rows)
        return total

    def _where(self, rows: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            (index,) = torch.where(weights[:, number] > 0)
            mine = expert(rows[index]) * weights[index, number, None]
            total = total.index_add(0, index, mine)
        return total

    def _stacked(self, rows: Tensor, weights: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("tc,ech->teh", rows, self.up))
        return torch.einsum("teh,ehc,te->tc", hidden, self.down, weights)


class Capacity(Mixture):
    """As GShard: each expert takes so many tokens, in the order of the tokens."""

    def _masked(self, rows: Tensor, weights: Tensor) -> Tensor:
        place = (weights > 0).to(torch.int64).cumsum(0)
        return super()._masked(rows, torch.where(place <= 3, weights, 0.0))


class ExpertChoice(nn.Module):
    """Experts choose tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(CHANNELS, EXPERTS)
        self.experts = nn.ModuleList(mlp() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, C] to the same."""
        rows = x[0]
        scores = self.router(rows).softmax(-1)
        weights = chosen(scores.T, 4).T
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            total = total + weights[:, number : number + 1] * expert(rows)
        return total[None]


class SoftMoE(nn.Module):
    """Slots are mixtures of tokens, tokens mixtures of slots."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(CHANNELS, EXPERTS))
        self.experts = nn.ModuleList(mlp() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, C] to the same."""
        logits = x[0] @ self.slots
        slots = logits.softmax(0).T @ x[0]
        results = torch.stack([expert(slots[e]) for e, expert in enumerate(self.experts)])
        return (logits.softmax(1) @ results)[None]


class CosineRouter(nn.Module):
    """As SwinV2-MoE: similarity to an embedding of each expert."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(CHANNELS, 16)
        self.embedding = nn.Parameter(torch.randn(16, EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        """[T, C] to [T, E]."""
        return F.normalize(self.project(x), dim=-1) @ F.normalize(self.embedding, dim=0) / 0.07


def _mlp_router() -> nn.Module:
    return nn.Sequential(nn.Linear(CHANNELS, 32), nn.GELU(), nn.Linear(32, EXPERTS))


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x) ** 2


class _Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _expert(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: mlp(lambda: _Activation(function))


MIXTURES: dict[str, Callable[[], nn.Module]] = {
    "softmax-first": lambda: Mixture(softmax_first),
    "softmax-last": lambda: Mixture(softmax_last),
    "renormalised": lambda: Mixture(renormalised),
    "softmax-first-where": lambda: Mixture(softmax_first, "where"),
    "renormalised-where": lambda: Mixture(renormalised, "where"),
    "softmax-first-stacked": lambda: Mixture(softmax_first, "stacked"),
    "renormalised-stacked": lambda: Mixture(renormalised, "stacked"),
    "sigmoid": lambda: Mixture(sigmoid),
    "sigmoid-renormalised": lambda: Mixture(sigmoid_renormalised),
    "sigmoid-corrected": lambda: Mixture(corrected),
    "switch": lambda: Mixture(switch),
    "threshold": lambda: Mixture(threshold),
    "dense-mixture": lambda: Mixture(everything),
    "task-constant": lambda: Mixture(biased_task),
    "router-mlp": lambda: Mixture(softmax_first, router=_mlp_router()),
    "router-cosine": lambda: Mixture(softmax_first, router=CosineRouter()),
    "router-without-bias": lambda: Mixture(
        softmax_first, router=nn.Linear(CHANNELS, EXPERTS, bias=False)
    ),
    "shared": lambda: Mixture(renormalised, shared=True),
    "shared-gated": lambda: Mixture(renormalised, shared="gated"),
    "experts-relu": lambda: Mixture(softmax_first, expert=lambda: mlp(nn.ReLU)),
    "experts-silu": lambda: Mixture(softmax_first, expert=lambda: mlp(nn.SiLU)),
    "experts-tanh-gelu": lambda: Mixture(
        softmax_first, expert=lambda: mlp(lambda: nn.GELU("tanh"))
    ),
    "experts-squared-relu": lambda: Mixture(softmax_first, expert=_expert(_squared_relu)),
    "experts-hard-swish": lambda: Mixture(softmax_first, expert=lambda: mlp(nn.Hardswish)),
    "experts-swiglu": lambda: Mixture(renormalised, expert=lambda: Gated(F.silu)),
    "experts-geglu": lambda: Mixture(renormalised, expert=lambda: Gated(F.gelu)),
    "experts-linear": lambda: Mixture(softmax_first, expert=lambda: nn.Linear(CHANNELS, CHANNELS)),
    "capacity": lambda: Capacity(softmax_first),
    "expert-choice": ExpertChoice,
    "soft-moe": SoftMoE,
}
"""By name."""


def entries() -> Iterator[Entry]:
    """All of them."""

    def build(make: Callable[[], nn.Module]) -> nn.Module:
        return MixtureViT(make())

    for name, make in MIXTURES.items():
        parts: Any = functools.partial(build, make)
        yield Entry(f"moe-{name}", "mixtures of experts", "here", parts, (1, 3, SIDE, SIDE))

    def parallel() -> nn.Module:
        return MixtureViT(Mixture(renormalised, shared=True), ParallelBlock)

    yield Entry("moe-parallel", "mixtures of experts", "here", parallel, (1, 3, SIDE, SIDE))
