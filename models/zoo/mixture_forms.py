"""The same mixture, GELU experts behind a softmax router, as people write it in many ways."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.mixtures import (
    CHANNELS,
    EXPERTS,
    HIDDEN,
    SIDE,
    TOP_K,
    MixtureViT,
    mlp,
)


class Routed(nn.Module):
    """A router and experts, as modules and as stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(CHANNELS, EXPERTS)
        self.experts = nn.ModuleList(mlp() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, C] to the same."""
        return self.mix(x.flatten(0, 1)).reshape(x.shape)

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        raise NotImplementedError

    def chosen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights that sum to one, and experts: [T, k] each."""
        values, index = self.router(rows).softmax(-1).topk(TOP_K, -1)
        return values / values.sum(-1, keepdim=True), index


class Stacked(Routed):
    """All experts' weights in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        del self.experts
        self.up = nn.Parameter(torch.randn(EXPERTS, CHANNELS, HIDDEN) * CHANNELS**-0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, CHANNELS) * HIDDEN**-0.5)
        self.up_bias = nn.Parameter(torch.randn(EXPERTS, HIDDEN) * 0.1)
        self.down_bias = nn.Parameter(torch.randn(EXPERTS, CHANNELS) * 0.1)

    def all_experts(self, rows: Tensor) -> Tensor:
        """[T, C] to [T, E, C]."""
        hidden = F.gelu(torch.einsum("tc,ech->teh", rows, self.up) + self.up_bias)
        return torch.einsum("teh,ehc->tec", hidden, self.down) + self.down_bias

    def table(self, rows: Tensor) -> Tensor:
        """Weights [T, E], zero for experts that are not chosen."""
        values, index = self.chosen(rows)
        return rows.new_zeros(len(rows), EXPERTS).scatter(-1, index, values)


class Mixtral(Routed):
    """A mask [E, k, T] of hits; tokens and slots of an expert by ``where``; ``index_add``."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        mask = F.one_hot(index, EXPERTS).permute(2, 1, 0)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            slot, token = torch.where(mask[number])
            mine = expert(rows[None, token].reshape(-1, CHANNELS)) * values[token, slot, None]
            total = total.index_add(0, token, mine.to(rows.dtype))
        return total


class SlotMask(Routed):
    """``index == e``, ``where`` and assignment by index, as DeepSeek's simple loop."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token, slot = torch.where(index == number)
            total[token] += expert(rows[token]) * values[token, slot, None]
        return total


class SparseSoftmax(Routed):
    """-inf where an expert is not chosen, then softmax; tokens by a boolean mask."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        logits = self.router(rows)
        values, index = logits.topk(TOP_K, -1)
        weights = torch.full_like(logits, float("-inf")).scatter(-1, index, values).softmax(-1)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            mask = (index == number).any(-1)
            total[mask] += expert(rows[mask]) * weights[mask, number].unsqueeze(1)
        return total


class Kth(Routed):
    """Scores below the k-th largest are filled with -inf."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        logits = self.router(rows)
        least = logits.topk(TOP_K, -1).values[:, -1:]
        weights = logits.masked_fill(logits < least, float("-inf")).softmax(-1)
        return sum(weights[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class MaskedSum(Routed):
    """A mask of the chosen, the softmax times the mask, divided by its own sum."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        scores = self.router(rows).softmax(-1)
        index = scores.topk(TOP_K, -1).indices
        weights = scores * torch.zeros_like(scores).scatter(-1, index, 1.0)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-9)
        return sum(weights[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class Batched(Stacked):
    """``bmm`` of all tokens with every expert; a sum over experts."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        inputs = rows.expand(EXPERTS, -1, -1)
        hidden = F.gelu(torch.baddbmm(self.up_bias[:, None], inputs, self.up))
        result = torch.baddbmm(self.down_bias[:, None], hidden, self.down)
        return (result * self.table(rows).T[..., None]).sum(0)


class Biases(Stacked):
    """Weighted hidden values, one product for all experts, and the weights times the biases."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        weights = self.table(rows)
        hidden = F.gelu(torch.einsum("tc,ech->teh", rows, self.up) + self.up_bias)
        hidden = (hidden * weights[..., None]).flatten(1)
        return hidden @ self.down.flatten(0, 1) + weights @ self.down_bias


class Gathered(Stacked):
    """Each token's own weights, ``w[index]``."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        hidden = torch.einsum("tc,tkch->tkh", rows, self.up[index]) + self.up_bias[index]
        result = torch.einsum("tkh,tkhc->tkc", F.gelu(hidden), self.down[index])
        return torch.einsum("tkc,tk->tc", result + self.down_bias[index], values)


class GatheredBatched(Stacked):
    """The same with ``index_select`` and ``bmm``, one slot after the other."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        total = torch.zeros_like(rows)
        for slot in range(TOP_K):
            own = index[:, slot]
            hidden = torch.bmm(rows[:, None], self.up.index_select(0, own))
            hidden = F.gelu(hidden + self.up_bias.index_select(0, own)[:, None])
            result = torch.bmm(hidden, self.down.index_select(0, own))[:, 0]
            total = total + (result + self.down_bias[own]) * values[:, slot, None]
        return total


class TakeAlong(Stacked):
    """All experts' results, of which each token takes its own."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        mine = torch.take_along_dim(self.all_experts(rows), index[..., None], 1)
        return (mine * values[..., None]).sum(1)


class FlatIndex(Stacked):
    """The same from a flattened table."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        table = self.all_experts(rows).flatten(0, 1)
        place = index + EXPERTS * torch.arange(len(rows))[:, None]
        mine = table.index_select(0, place.flatten()).reshape(*index.shape, CHANNELS)
        return (mine * values[..., None]).sum(1)


class Combined(Stacked):
    """A table of weights from one-hot slots."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        hot = F.one_hot(index, EXPERTS).to(rows.dtype)
        return torch.einsum("tk,tke,tec->tc", values, hot, self.all_experts(rows))


class Switch(Routed):
    """The largest score and its expert."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        value, index = self.router(rows).softmax(-1).max(-1)
        weights = value[:, None] * F.one_hot(index, EXPERTS)
        return sum(weights[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class SwitchArgmax(Routed):
    """An expert's tokens are those whose largest score is its."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        scores = self.router(rows).softmax(-1)
        index = scores.argmax(-1)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            (token,) = torch.where(index == number)
            total[token] = expert(rows[token]) * scores[token, number, None]
        return total


class Scaled(Mixtral):
    """DeepSeek's ``routed_scaling_factor``."""

    def chosen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights that sum to 2.5, and experts."""
        values, index = super().chosen(rows)
        return values * 2.5, index


class Temperature(Routed):
    """A softmax of scaled scores of the chosen."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.router(rows).topk(TOP_K, -1)
        weights = rows.new_zeros(len(rows), EXPERTS).scatter(-1, index, (values / 0.7).softmax(-1))
        return sum(weights[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class GatheredScores(Routed):
    """The choice by logits, the weights by a softmax of all."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        logits = self.router(rows)
        index = logits.topk(TOP_K, -1).indices
        values = logits.softmax(-1).gather(-1, index)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            weight = torch.where(index == number, values, 0.0).sum(-1, keepdim=True)
            total = total + weight * expert(rows)
        return total


class Roomy(Routed):
    """Experts with room for every token: a capacity that drops none."""

    room = 32

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        hot = F.one_hot(index, EXPERTS).sum(1)
        place = hot.cumsum(0) * hot
        kept = hot * (place <= self.room)
        weights = (values[..., None] * F.one_hot(index, EXPERTS)).sum(1) * kept
        return sum(weights[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class Tight(Roomy):
    """Experts that drop tokens."""

    room = 3


FORMS: dict[str, Callable[[], nn.Module]] = {
    "batched": Batched,
    "biases": Biases,
    "combined": Combined,
    "flat-index": FlatIndex,
    "gathered": Gathered,
    "gathered-batched": GatheredBatched,
    "gathered-scores": GatheredScores,
    "kth": Kth,
    "masked-sum": MaskedSum,
    "mixtral": Mixtral,
    "roomy": Roomy,
    "scaled": Scaled,
    "slot-mask": SlotMask,
    "sparse-softmax": SparseSoftmax,
    "switch": Switch,
    "switch-argmax": SwitchArgmax,
    "take-along": TakeAlong,
    "temperature": Temperature,
    "tight": Tight,
}
"""By name."""


def entries() -> Iterator[Entry]:
    """All of them."""
    shape = (1, 3, SIDE, SIDE)
    for name, make in FORMS.items():
        build = functools.partial(_build, make)
        yield Entry(f"moe-form-{name}", "mixtures of experts", "here", build, shape)


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    return MixtureViT(make())
