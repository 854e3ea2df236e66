"""Mixtures whose gates, experts or dispatch differ from a softmax over equal MLPs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.mixture_forms import Routed, Stacked
from moesaic.models.zoo.mixtures import CHANNELS, EXPERTS, HIDDEN, SIDE, TOP_K, MixtureViT, mlp

GROUPS = 4


class Gate(Routed):
    """All experts, weighed by a table."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E], zero for experts that are not chosen."""
        raise NotImplementedError

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        table = self.table(self.router(rows))
        return sum(table[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


def _spread(scores: Tensor, index: Tensor, values: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter(-1, index, values)


class DeepSeekV3(Gate):
    """``noaux_tc``: sigmoids, a learnt bias for the choice alone, a small number in the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.randn(EXPERTS) * 0.2)

    def scores_for_choice(self, scores: Tensor) -> Tensor:
        """What the choice is made from."""
        return scores + self.bias

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        scores = logits.sigmoid()
        index = torch.topk(self.scores_for_choice(scores), TOP_K, dim=-1, sorted=False).indices
        values = scores.gather(1, index)
        values = values / (values.sum(-1, keepdim=True) + 1e-20) * 2.5
        return _spread(scores, index, values)


class DeepSeekV3Groups(DeepSeekV3):
    """The same, from the two groups whose two best experts have most."""

    def scores_for_choice(self, scores: Tensor) -> Tensor:
        """What the choice is made from: little for experts of other groups."""
        scores = scores + self.bias
        groups = scores.unflatten(-1, (GROUPS, -1)).topk(2, -1).values.sum(-1)
        mask = torch.zeros_like(groups).scatter(1, groups.topk(2, -1, sorted=False).indices, 1.0)
        mask = mask.repeat_interleave(EXPERTS // GROUPS, -1)
        return scores.masked_fill(mask == 0, float("-inf"))


class CorrectedSoftmax(Gate):
    """A bias for the choice alone, on a softmax."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        scores = logits.softmax(-1)
        index = (scores + torch.linspace(-0.1, 0.1, EXPERTS)).topk(TOP_K, -1).indices
        return _spread(scores, index, scores.gather(-1, index))


class ClampedSum(Gate):
    """Divided by a sum that is kept off zero."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        values, index = logits.softmax(-1).topk(TOP_K, -1)
        values = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).eps)
        return _spread(logits, index, values)


class WrittenOut(Gate):
    """The softmax as exponentials over their sum."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        powers = (logits - logits.amax(-1, keepdim=True)).exp()
        values, index = (powers / powers.sum(-1, keepdim=True)).topk(TOP_K, -1)
        return _spread(logits, index, values)


class DenseSigmoids(Gate):
    """All experts, each by a sigmoid of its own."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        return logits.sigmoid()


class HashGate(Routed):
    """Experts by the token's place: no router."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        number = (torch.arange(len(rows)) * 5) % EXPERTS
        hot = F.one_hot(number, EXPERTS).to(rows.dtype)
        return sum(hot[:, e, None] * f(rows) for e, f in enumerate(self.experts))  # type: ignore[return-value]


class ZeroExperts(Routed):
    """As MoE++: the last experts give nothing, and their input."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp() for _ in range(EXPERTS - 2))

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        table = _spread(self.router(rows), index, values)
        total = table[:, EXPERTS - 1, None] * rows
        for number, expert in enumerate(self.experts):
            total = total + table[:, number, None] * expert(rows)
        return total


class LowRank(Routed):
    """Experts that are two thin matrices, beside an MLP that all tokens pass."""

    def __init__(self) -> None:
        super().__init__()
        thin = (
            nn.Sequential(nn.Linear(CHANNELS, 8, bias=False), nn.Linear(8, CHANNELS, bias=False))
            for _ in range(EXPERTS)
        )
        self.experts, self.shared = nn.ModuleList(thin), mlp()

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        table = _spread(self.router(rows), index, values)
        total = self.shared(rows)
        for number, expert in enumerate(self.experts):
            total = total + table[:, number, None] * expert(rows)
        return total


class ResidualMixture(Routed):
    """As DeepSpeed's residual MoE: a softmax of two weighs the mixture and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.coefficient = mlp(), nn.Linear(CHANNELS, 2)

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        value, index = self.router(rows).softmax(-1).max(-1)
        table = value[:, None] * F.one_hot(index, EXPERTS)
        mixed = sum(table[:, e, None] * f(rows) for e, f in enumerate(self.experts))
        share = self.coefficient(rows).softmax(-1)
        return mixed * share[:, :1] + self.mlp(rows) * share[:, 1:]  # type: ignore[no-any-return]


class Sorted(Routed):
    """Choices sorted by expert, a slice of them for each, and sorted back."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        flat = index.flatten()
        order = flat.argsort()
        inputs = rows[order // TOP_K]
        hot = F.one_hot(flat[order], EXPERTS).to(rows.dtype)
        results = sum(hot[:, e, None] * f(inputs) for e, f in enumerate(self.experts))
        assert isinstance(results, Tensor)
        back = torch.zeros_like(results).index_copy(0, order, results)
        return (back.unflatten(0, (-1, TOP_K)) * values[..., None]).sum(1)


class Slots(Stacked):
    """As GShard and V-MoE: one-hot tensors carry tokens into the slots of experts and back."""

    room = 32

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        values, index = self.chosen(rows)
        hot = F.one_hot(index, EXPERTS).sum(1).to(rows.dtype)
        table = rows.new_zeros(len(rows), EXPERTS).scatter(-1, index, values)
        place = ((hot.cumsum(0) - 1) * hot).long()
        slots = F.one_hot(place, self.room).to(rows.dtype) * hot[..., None]
        inputs = torch.einsum("tes,tc->esc", slots, rows)
        hidden = F.gelu(torch.einsum("esc,ech->esh", inputs, self.up) + self.up_bias[:, None])
        results = torch.einsum("esh,ehc->esc", hidden, self.down) + self.down_bias[:, None]
        return torch.einsum("tes,esc->tc", slots * table[..., None], results)


class Product(nn.Module):
    """An expert of two projections and a function of both."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(CHANNELS, HIDDEN), nn.Linear(CHANNELS, HIDDEN)
        self.down, self.function = nn.Linear(HIDDEN, CHANNELS), function

    def forward(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        return self.down(self.function(self.gate(rows), self.up(rows)))


class Products(Gate):
    """Experts that multiply two projections in ways of their own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Product(function) for _ in range(EXPERTS))

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        values, index = logits.topk(TOP_K, -1)
        return _spread(logits, index, values.softmax(-1))


def _gpt_oss(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * gate * (gate * 1.702).sigmoid()


STRUCTURES: dict[str, Callable[[], nn.Module]] = {
    "deepseek-v3": DeepSeekV3,
    "deepseek-v3-groups": DeepSeekV3Groups,
    "corrected-softmax": CorrectedSoftmax,
    "clamped-sum": ClampedSum,
    "written-out": WrittenOut,
    "dense-sigmoids": DenseSigmoids,
    "hash": HashGate,
    "zero-experts": ZeroExperts,
    "low-rank": LowRank,
    "residual": ResidualMixture,
    "sorted": Sorted,
    "slots": Slots,
    "product-first": lambda: Products(lambda a, b: (a * b) * a.sigmoid()),
    "product-negative": lambda: Products(lambda a, b: -F.silu(a) * b),
    "gpt-oss": lambda: Products(_gpt_oss),
}
"""By name."""


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, make in STRUCTURES.items():
        build = functools.partial(_build, make)
        shape = (1, 3, SIDE, SIDE)
        yield Entry(f"moe-structure-{name}", "mixtures of experts", "here", build, shape)


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    return MixtureViT(make())
