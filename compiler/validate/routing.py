"""Tokens whose choice of experts no float can settle: scores that are equal but for rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import choose_experts

ROUNDING = 2.0**-24
"""Relative error of one rounding to float32."""


class NearTies:
    """Watches the logits of one or several layers, in float64 and in float32.

    Pass :meth:`observe` to the run in float64 and :meth:`observe_short` to that in float32.
    """

    def __init__(self, layers: list[ir.Layer], first: int, safety: float) -> None:
        self._layers, self._first = layers, first
        self._safety = safety
        self._exact: dict[str, Tensor] = {}
        self._near: Tensor | None = None
        self.unreached = 0
        """Experts of all layers that no token chose."""

    def observe(self, point: str, value: Tensor) -> None:
        if point.endswith(".logits"):
            self._exact[point] = value
            _, chosen = choose_experts(self._layer(point), value)
            self.unreached += value.shape[-1] - len(chosen.unique())

    def observe_short(self, point: str, value: Tensor) -> None:
        if not point.endswith(".logits"):
            return
        layer, exact = self._layer(point), self._exact[point]
        if layer.top_k == exact.shape[-1]:
            return
        ordered = exact.sort(-1, descending=True).values
        margin = ordered[..., layer.top_k - 1] - ordered[..., layer.top_k]
        error = (value.double() - exact).abs().amax(-1)  # each token's own, or the usual one
        error = torch.maximum(error, error.median())
        error = torch.maximum(error, ROUNDING * exact.abs().amax(-1))
        near = margin <= self._safety * error
        self._near = near if self._near is None else self._near | near

    def _layer(self, point: str) -> ir.Moe:
        layer = self._layers[int(point.partition(".")[0]) - self._first]
        assert isinstance(layer, ir.Moe)
        return layer

    @property
    def tokens(self) -> Tensor | None:
        """Which tokens [samples, tokens] are near a tie in some layer; None without a choice."""
        return self._near
