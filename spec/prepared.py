"""The constants of an integer graph on a torch device, in the form that the executor computes with.

A function of one integer of few bits becomes a table that :mod:`moesaic.spec.semantics` fills once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from moesaic.spec import kernels, semantics, tables
from moesaic.spec.formats import (
    ADDEND_BITS,
    ANGLE_FRACTION_BITS,
    HIDDEN_BITS,
    INT8_LARGEST,
    INT16_LARGEST,
    ROTARY_BITS,
    UINT8_BITS,
    UINT8_LARGEST,
)
from moesaic.spec.intgraph import IntActivation, IntAttention, IntLinear, IntMlp, Scale


class Linear:
    """One or several linear layers of the same input, with their requantisation.

    Parameters
    ----------
    parts
        Their outputs come one after the other.
    bits
        Signed width that results saturate to.
    device
        Where the constants go.
    largest
        Largest magnitude of an input: of all, or [inputs].

    Attributes
    ----------
    low, high
        Results are clamped to these, or every output to its own.
    dtype
        Of the products' sums: float32 if the weights prove it exact.
    """

    def __init__(
        self,
        parts: Sequence[IntLinear],
        bits: int,
        device: torch.device,
        largest: int | NDArray[np.int64] = INT8_LARGEST,
    ) -> None:
        self.low: int | Tensor = -(1 << bits - 1)
        self.high: int | Tensor = (1 << bits - 1) - 1
        weight = np.concatenate([part.weight for part in parts]).astype(np.int32)
        bound = int((np.abs(weight) @ np.broadcast_to(np.int64(largest), weight.shape[1])).max())
        self.dtype = kernels.float_for(bound)
        self._weight = torch.tensor(weight, dtype=self.dtype, device=device)

        def join(name: str) -> NDArray[np.float64]:
            return np.concatenate([getattr(part, name) for part in parts]).astype(np.float64)

        factor = np.ldexp(join("multiplier"), -join("shift").astype(np.int32))
        self._factor = torch.tensor(factor, device=device)
        self._offset = torch.tensor(join("bias") * factor + 0.5, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """Codes [..., inputs] of any float type to codes [..., outputs], float64."""
        sums = functional.linear(x.to(self.dtype), self._weight).double()
        return kernels.rescale_(sums, self._factor, self._offset, self.low, self.high)


@cache
def _all_z() -> Tensor:
    half = 1 << tables.ACTIVATION_INPUT_BITS - 1
    return torch.arange(-half, half)


_fine: dict[tuple[bytes, bytes, bool, torch.device], Tensor] = {}


def fine_table(activation: IntActivation, device: torch.device) -> Tensor:
    """``semantics.activation_fine`` of every pre-activation, the lowest first, float32; equal
    functions share one."""
    parts = (activation.positive, activation.negative)
    positive, negative = (part.tobytes() for part in parts)
    key = (positive, negative, activation.linear, device)
    if key not in _fine:
        above, below = (torch.from_numpy(part.astype(np.int64)) for part in parts)
        fine = semantics.activation_fine(_all_z(), above, below, activation.linear)
        _fine[key] = fine.to(device, torch.float32)
    return _fine[key]


def code_table(activation: IntActivation, scale: Scale, offset: int) -> tuple[int, Tensor]:
    """(first z, uint8 codes from there on); beyond both ends they do not change.

    Computed over all pre-activations; the constant ends are cut off.
    """
    fine = fine_table(activation, torch.device("cpu")).long()
    result = semantics.hidden_code(fine, scale.multiplier, scale.shift, offset).to(torch.uint8)
    changes = (result[1:] != result[:-1]).nonzero().flatten()
    first, last = (int(changes[0]), int(changes[-1]) + 1) if len(changes) else (0, 0)
    return first - len(result) // 2, result[first : last + 1]


class Mlp:
    """Up, activation and down for any rows: codes [..., channels], any float, to 24-bit addends.

    Parameters
    ----------
    mlp
        Its constants.
    device
        Where they go.
    largest
        Largest magnitude of an input.
    """

    def __init__(self, mlp: IntMlp, device: torch.device, largest: int) -> None:
        self._up = Linear([mlp.up], tables.ACTIVATION_INPUT_BITS, device, largest)
        self._down = Linear([mlp.down], ADDEND_BITS, device, mlp.hidden_limits())
        self._wide, self._paired, self._offset = mlp.wide, mlp.paired, mlp.offset
        if self._wide or self._paired:  # every z has another result: one table for all layers
            self._fine = fine_table(mlp.activation, device)
            factor = mlp.scale.multiplier * 2.0**-mlp.scale.shift
            self._rescale = torch.tensor([factor, 0.5], dtype=torch.float64, device=device)
        if self._paired:
            is_factor = torch.arange(mlp.up.outputs, device=device) >= mlp.hidden
            bits = torch.where(is_factor, HIDDEN_BITS, tables.ACTIVATION_INPUT_BITS)
            largest_code = 2.0 ** (bits - 1).double()
            self._up.low, self._up.high = -largest_code, largest_code - 1
            return
        self._first, table = code_table(mlp.activation, mlp.scale, mlp.offset)
        self._last = self._first + len(table) - 1
        self._table = table.to(device, torch.float32)
        if not self._wide:
            self._up.low, self._up.high = self._first, self._last

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden codes [..., hidden]."""
        z = self._up(x)
        if self._paired:
            return self._products(*z.chunk(2, -1))
        if not self._wide:
            return self._narrow(z)
        wide, narrow = z[..., : self._wide], z[..., self._wide :]
        codes = self._in_16_bits(self._activate(wide))
        if not narrow.shape[-1]:
            return codes
        return torch.cat([codes, self._narrow(narrow.clamp(self._first, self._last))], -1)

    def _products(self, z: Tensor, factor: Tensor) -> Tensor:
        fine = self._activate(z) * factor
        wide, narrow = fine[..., : self._wide], fine[..., self._wide :]
        scale, half = self._rescale
        highest = (1 << UINT8_BITS) - 1
        narrow = kernels.rescale_(narrow, scale, half + self._offset, 0, highest)
        return torch.cat([self._in_16_bits(wide), narrow], -1) if self._wide else narrow

    def _narrow(self, z: Tensor) -> Tensor:
        return look_up(self._table, z - self._first)

    def _activate(self, z: Tensor) -> Tensor:
        return look_up(self._fine, z + len(self._fine) // 2).double()

    def _in_16_bits(self, fine: Tensor) -> Tensor:
        low, high = -(1 << HIDDEN_BITS - 1), (1 << HIDDEN_BITS - 1) - 1
        factor, half = self._rescale
        return kernels.rescale_(fine, factor, half, low, high)

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self.hidden(x))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` for a float ``index`` of any shape that holds integers inside the table."""
    return table.index_select(0, index.to(torch.int32).flatten()).view(index.shape)


MAX_TABLE = 1 << 22
"""Most entries of a table of softmax numerators by distance."""


def exponent_table() -> Tensor:
    """``semantics.softmax_fine`` by the exponent, in steps of 2**-7 octave."""
    return semantics.softmax_fine(torch.arange(1 << tables.EXPONENT_BITS), 1, 0)


def numerator_table(scale: Scale, largest: int) -> Tensor | None:
    """``semantics.softmax_fine`` by the distance from the row's largest score, 0 .. ``largest``.

    Cut off behind the first distance whose entry is 0; one entry if all are equal. None where
    more than :data:`MAX_TABLE` would be left: in heads of many dimensions whose scores hardly
    count.
    """
    vanishes = int((exponent_table() == 0).long().argmax())
    if scale.multiplier:
        # round_shift(distance * multiplier, shift) reaches ``vanishes``
        reached = ((2 * vanishes - 1) << scale.shift) // (2 * scale.multiplier) + 1
        largest = min(largest, reached)
    else:
        largest = 0
    if largest >= MAX_TABLE:
        return None
    return semantics.softmax_fine(torch.arange(largest + 1), scale.multiplier, scale.shift)


class Attention:
    """Attention of all heads and frames at once, from normalised rows to 24-bit addends."""

    def __init__(self, layer: IntAttention, tokens: int, device: torch.device) -> None:
        self.heads = layer.heads
        self.widths = [part.outputs for part in (layer.query, layer.key, layer.value)]
        largest = INT16_LARGEST if layer.wide else INT8_LARGEST
        self.project = Linear([layer.query, layer.key, layer.value], 8, device, largest)
        query = INT16_LARGEST if layer.wide_query else INT8_LARGEST
        if layer.wide_query:
            is_query = torch.arange(sum(self.widths), device=device) < self.widths[0]
            largest = torch.where(is_query, query, INT8_LARGEST).double()
            self.project.low, self.project.high = -largest, largest - 1
        self._rotary: tuple[Tensor, Tensor] | None = None
        self._wide_query = layer.wide_query
        if layer.rotary is not None:
            is_value = torch.arange(sum(self.widths), device=device) >= sum(self.widths[:2])
            most = torch.where(is_value, INT8_LARGEST, 1 << ROTARY_BITS - 1).double()
            self.project.low, self.project.high = -most, most - 1
            cosine, sine = (
                torch.tensor(part, dtype=torch.float64, device=device) * 2.0**-ANGLE_FRACTION_BITS
                for part in (layer.rotary.cosine, layer.rotary.sine)
            )
            self._rotary = cosine, sine
        attended = INT16_LARGEST if layer.wide_attended else INT8_LARGEST
        self.output = Linear([layer.output], ADDEND_BITS, device, attended)
        self._low, self._high = -attended, attended - 1
        score = layer.head_dim * query * INT8_LARGEST
        product = tokens * UINT8_LARGEST * INT8_LARGEST
        # Distances are up to twice a score, and are float32 too.
        self.score_type = kernels.float_for(2 * score)
        self.product_type = kernels.float_for(product)
        table = numerator_table(layer.softmax, 2 * score)
        self._exponent = None
        if table is None:  # then the exponent is computed, and looked up instead of the distance
            table = exponent_table()
            factor = layer.softmax.multiplier * 2.0**-layer.softmax.shift
            self._exponent = torch.tensor([factor, 0.5], dtype=torch.float64, device=device)
        # In whole steps, with 8 fraction bits: float32 holds them and their thresholds exactly.
        step = 2.0**-tables.DITHER_BITS
        self._numerators = table.to(device, self.product_type) * step
        self._dither = semantics.dither(tokens).to(device, self.product_type) * step
        sums = torch.arange(1, tokens * UINT8_LARGEST + 1)
        multiplier, shift = semantics.attention_scale(
            sums, layer.scale.multiplier, layer.scale.shift
        )
        scales = multiplier * kernels.power_of_half(shift)
        self._scales = torch.cat([scales[:1], scales]).to(device)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Query, key and value [frames, heads, tokens, dim] of normalised rows, float64."""
        parts = self.project(rows).split(self.widths, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self._rotary is None:
            return [query, key, value]
        cosine, sine = self._rotary
        turned = []
        for part, wide in ((query, self._wide_query), (key, False)):
            first, second = part.chunk(2, -1)
            turned.append(torch.cat(kernels.rotate(first, second, cosine, sine, wide), -1))
        return [*turned, value]

    def softmax(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """``semantics.softmax`` of scores [..., columns]; destroys them.

        Returns the numerators and for each row the factor that turns P*V into attended codes.
        """
        distance = torch.sub(scores.amax(-1, keepdim=True), scores, out=scores)
        last = len(self._numerators) - 1
        if self._exponent is None:
            index = distance.clamp_(max=last)
        else:
            factor, half = self._exponent
            index = kernels.rescale_(distance.double(), factor, half, 0, last)
        probability = look_up(self._numerators, index).add_(self._dither).floor_()
        return probability, look_up(self._scales, probability.sum(-1))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(numerators [frames, heads, tokens, tokens], codes [frames, tokens, values])."""
        query, key = query.to(self.score_type), key.to(self.score_type)
        probability, scale = self.softmax(query @ key.transpose(-1, -2))
        product = (probability @ value.to(self.product_type)).double()
        half = product.new_tensor(0.5)
        attended = kernels.rescale_(product, scale[..., None], half, self._low, self._high)
        return probability, attended.transpose(1, 2).flatten(2)
