"""Experts by a token's place or modality, whatever the data are: no router."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.mixture_forms import Routed
from moesaic.models.zoo.mixtures import CHANNELS, EXPERTS, SIDE, Block, MixtureViT, mlp

FIRST = 6
"""Tokens of the first of two modalities."""


class Modalities(nn.Module):
    """An expert and a LayerNorm of each."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.experts = nn.ModuleList(mlp() for _ in range(2))
        for norm in self.norms:
            nn.init.normal_(norm.weight, 1.0, 0.2)  # type: ignore[arg-type]
            nn.init.normal_(norm.bias, 0.0, 0.2)  # type: ignore[arg-type]

    def parts(self, x: Tensor) -> list[Tensor]:
        """[N, T, C] to what the experts give, [N, n, C] each."""
        rows = x[:, :FIRST], x[:, FIRST:]
        each = zip(self.experts, self.norms, rows, strict=True)
        return [expert(norm(part)) for expert, norm, part in each]


class Multiway(Block):
    """As BEiT-3's feed-forward networks: side by side, then added to the stream."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        x = x + self.attention(self.first(x))
        return x + torch.cat(self.mixture.parts(x), 1)  # type: ignore[operator]


class VLMo(Block):
    """As VLMo: the stream is divided, each part has a residual of its own with a layer scale."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        x = x + self.attention(self.first(x))
        first, second = self.mixture.parts(x)  # type: ignore[operator]
        return torch.cat([x[:, :FIRST] + 0.8 * first, x[:, FIRST:] + 0.8 * second], 1)


class ClassToken(nn.Module):
    """A network of the class token's own; the others share one."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.patches = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        return torch.cat([self.token(x[:, :1]), self.patches(x[:, 1:])], 1)


class ClassTokenAlone(Block):
    """Only the class token has one, and the others pass by."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same."""
        x = x + self.attention(self.first(x))
        token = x[:, :1]
        return torch.cat([token + self.mixture(self.second(token)), x[:, 1:]], 1)


class HashScatter(Routed):
    """A table of experts, whose tokens are taken out and put back; one expert's get nothing."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        number = (torch.arange(len(rows)) * 7) % EXPERTS
        total = torch.zeros_like(rows)
        for e, expert in enumerate(list(self.experts)[:-1]):
            mine = torch.nonzero(number == e)[:, 0]
            total[mine] = expert(rows[mine])
        return total


class HashWhere(Routed):
    """The same by nested choices with constant masks."""

    def mix(self, rows: Tensor) -> Tensor:
        """[T, C] to the same."""
        number = ((torch.arange(len(rows)) * 5) % EXPERTS)[:, None]
        total = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            total = torch.where(number == e, expert(rows), total)
        return total


LISTS: dict[str, Callable[[], nn.Module]] = {
    "multiway": lambda: MixtureViT(Modalities(), Multiway),
    "vlmo": lambda: MixtureViT(Modalities(), VLMo),
    "class-token": lambda: MixtureViT(ClassToken()),
    "class-token-alone": lambda: MixtureViT(mlp(), ClassTokenAlone),
    "hash-scatter": lambda: MixtureViT(HashScatter()),
    "hash-where": lambda: MixtureViT(HashWhere()),
}
"""By name."""


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, build in LISTS.items():
        shape = (1, 3, SIDE, SIDE)
        yield Entry(
            f"moe-list-{name}", "mixtures of experts", "here", functools.partial(build), shape
        )
