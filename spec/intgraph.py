"""The integer graph: what the accelerator computes, free of any array size.

The compiler produces one :class:`IntGraph` per task; ``spec.execute`` runs it, the code generator
lowers it. All arrays are numpy and read-only by convention. Scales are floats for people and
hosts; the arithmetic between input and output codes uses integers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.activations import Table
from moesaic.spec.formats import (
    ANGLE_BITS,
    ANGLE_FRACTION_BITS,
    FEW_WEIGHT_BITS,
    INT16_LARGEST,
    UINT8_LARGEST,
    WEIGHT_BITS,
)
from moesaic.spec.schema import Items, LeftOut, Range

Count = Annotated[int, Range(1, (1 << 31) - 1)]
Total = Annotated[int, Range(1, (1 << 53) - 1)]
"""Of a whole frame: a ViT-B has 17 billion products."""
Step = Annotated[float, Range(5e-324, 1e300)]
"""Real value of one step of a code."""
Shape = Annotated[tuple[Count, ...], Items(1, 8)]
"""Of a tensor of the model, the batch axis first."""
Vector, Matrix, Any8 = Items(1, 1), Items(2, 2), Items(1, 8)
"""Ranks of arrays."""
InputCodes = NDArray[np.int8] | NDArray[np.int16]
"""Of patches, or of tokens: the rows of the residual stream."""
EPSILON_BITS = 48
MAX_LAYERS = 1024
MAX_EXPERTS = 64
MAX_HEADS = 32
"""A ViT-L that gives the stream in front of and behind each of its 24 blocks has 25."""


@dataclass(frozen=True)
class Scale:
    """A positive real factor ``multiplier * 2**-shift``; multiplier 0..65535, shift 0..63."""

    multiplier: Annotated[int, Range(0, 65535)]
    shift: Annotated[int, Range(0, 63)]

    @staticmethod
    def of(value: float) -> Scale:
        """Nearest factor with a full 16-bit mantissa; values below 2**-63 become 0.

        Raises
        ------
        ValueError
            ``value`` is negative, not finite, or above 65535.
        """
        if not 0 <= value <= 65535:
            raise ValueError(f"scale must be 0 to 65535, not {value!r}")
        if value == 0:
            return Scale(0, 0)
        mantissa, exponent = np.frexp(value)
        multiplier, shift = round(float(mantissa) * 65536), 16 - int(exponent)
        if multiplier == 65536:
            multiplier, shift = 32768, shift - 1
        while shift > 63:
            multiplier, shift = multiplier >> 1, shift - 1
        while shift < 0:
            multiplier, shift = multiplier << 1, shift + 1
        return Scale(multiplier, shift)

    @property
    def value(self) -> float:
        return float(self.multiplier * 2.0**-self.shift)


@dataclass(frozen=True)
class IntLinear:
    """``acc = x @ weight.T + bias``, then requantisation per output.

    weight int8 [outputs, inputs]; bias int32 [outputs]; multiplier uint16, shift uint8 [outputs].
    The accumulator never leaves int32 (proven by the compiler from the weights). ``weight_bits`` is
    what a code takes in the weight image: 8, or 4 where all of them are -7 to 7. The arithmetic is
    the same.
    """

    weight: Annotated[NDArray[np.int8], Matrix]
    bias: Annotated[NDArray[np.int32], Vector]
    multiplier: Annotated[NDArray[np.uint16], Vector]
    shift: Annotated[NDArray[np.uint8], Vector]
    weight_bits: Annotated[int, Range(FEW_WEIGHT_BITS, WEIGHT_BITS), LeftOut(WEIGHT_BITS)] = (
        WEIGHT_BITS
    )

    @property
    def few_bits(self) -> bool:
        """Whether its weights are stored with four bits."""
        return self.weight_bits == FEW_WEIGHT_BITS

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])


@dataclass(frozen=True)
class IntNorm:
    """LayerNorm of int16 residual rows: see ``semantics.layer_norm``. ``plain`` rows are the
    residual rows themselves, in another step: ``semantics.plain_rows``."""

    channels: Count
    epsilon: Annotated[int, Range(0, (1 << EPSILON_BITS) - 1)]
    scale: Scale
    plain: bool = False


@dataclass(frozen=True)
class IntEmbed:
    """First residual: int16 ``initial`` [tokens, channels]; ``linear`` of the int8 patches is
    added from ``first_row`` on (24-bit addends, ``semantics.residual_add``)."""

    linear: IntLinear
    initial: Annotated[NDArray[np.int16], Matrix]
    first_row: int

    @property
    def tokens(self) -> int:
        """Rows of the stream."""
        return int(self.initial.shape[0])

    @property
    def channels(self) -> int:
        """Columns of the stream."""
        return int(self.initial.shape[1])


@dataclass(frozen=True)
class IntTokens:
    """The input is the first residual: int16 codes [tokens, channels] in the stream's own step."""

    tokens: Count
    channels: Count


@dataclass(frozen=True)
class IntRotary:
    """Angles [tokens, pairs] of ``semantics.rotate``: cosine and sine, ``1 << ANGLE_FRACTION_BITS``
    being 1. Of every head, channels i and i + pairs are a pair."""

    cosine: Annotated[NDArray[np.int16], Matrix]
    sine: Annotated[NDArray[np.int16], Matrix]

    @staticmethod
    def of(cosine: NDArray[np.float32], sine: NDArray[np.float32]) -> IntRotary:
        """Nearest codes of magnitudes below 2."""
        one, most = 1 << ANGLE_FRACTION_BITS, (1 << ANGLE_BITS - 1) - 1
        codes = (np.rint(part.astype(np.float64) * one) for part in (cosine, sine))
        first, second = (np.clip(part, -most, most).astype(np.int16) for part in codes)
        return IntRotary(first, second)

    @property
    def pairs(self) -> int:
        return int(self.cosine.shape[1])


@dataclass(frozen=True)
class IntAttention:
    """q, k, v are int8, or q is int16 (``wide_query``), from the int8 rows or the 16-bit ones
    (``wide``); ``output`` takes int8 rows, or int16 ones (``wide_attended``), and adds 24-bit
    addends to the residual."""

    norm: IntNorm
    query: IntLinear
    key: IntLinear
    value: IntLinear
    output: IntLinear
    heads: Count
    head_dim: Count
    value_dim: Count
    softmax: Scale
    """Accumulated score to steps of 2**-7 octave."""
    scale: Scale
    """Accumulated p*v times 1/sum to the codes of attended rows."""
    name: str
    wide: bool = False
    wide_query: bool = False
    wide_attended: bool = False
    parallel: bool = False
    """Whether it reads the rows that the layer in front reads, in the same form, and adds its
    result behind that layer's. ``norm`` is then the same, and is not computed again."""
    rotary: IntRotary | None = None
    """Rotation of q and k, both of which come from 18 bits then."""


@dataclass(frozen=True)
class IntActivation:
    """``semantics.activation_fine``: tables int32 [256] of the correction.

    ``step`` and ``fine`` are the real values of one step of what goes in and of what comes out.
    """

    name: str
    step: Step
    fine: Step
    positive: Annotated[NDArray[np.int32], Vector]
    negative: Annotated[NDArray[np.int32], Vector]
    linear: bool

    @staticmethod
    def of(table: Table) -> IntActivation:
        """What a graph holds of it."""
        return IntActivation(
            table.name, table.step, table.fine, table.positive, table.negative, table.linear
        )


@dataclass(frozen=True)
class IntMlp:
    """``up`` requantises to 18 bits, ``activation`` makes of them its result in finer steps, and
    ``scale`` of those the hidden codes.

    ``paired``: the second half of ``up``'s outputs, int16 instead, are what the activations of the
    first half are multiplied by; ``scale`` is then a shift alone.

    The first ``wide`` hidden channels are int16, the others uint8 with ``offset`` as the code of
    zero: ``down``'s bias holds -offset times the sum of their weights.
    """

    up: IntLinear
    activation: IntActivation
    scale: Scale
    down: IntLinear
    offset: Annotated[int, Range(0, 255)] = 0
    wide: Annotated[int, Range(0, (1 << 31) - 1)] = 0
    paired: bool = False

    @property
    def hidden(self) -> int:
        """Hidden channels."""
        return self.down.inputs

    def hidden_limits(self) -> NDArray[np.int64]:
        """Largest magnitude of every hidden code [hidden]."""
        limits = np.full(self.hidden, UINT8_LARGEST, np.int64)
        limits[: self.wide] = INT16_LARGEST
        return limits


@dataclass(frozen=True)
class IntDense:
    """A dense MLP layer on the int8 normalised rows, or on the 16-bit ones (``wide``)."""

    norm: IntNorm
    mlp: IntMlp
    name: str
    wide: bool = False
    parallel: bool = False
    """As :attr:`IntAttention.parallel`."""
    tokens: Annotated[NDArray[np.int64], Vector] | None = None
    """Rows of the stream that it adds to, ascending; None for all. The others stay as they are."""

    def row_count(self, tokens: int) -> int:
        """How many rows of a stream of ``tokens`` it computes."""
        return tokens if self.tokens is None else len(self.tokens)


@dataclass(frozen=True)
class IntMoe:
    """A mixture-of-experts layer. ``gate`` takes the 16-bit normalised rows and gives 24-bit
    logits; experts take the int8 rows, or the 16-bit ones (``wide``), and add to the residual in
    ascending order. ``sigmoid``: gate weights are those of the logits, not a softmax."""

    norm: IntNorm
    gate: IntLinear
    top_k: Count
    renormalise: bool
    softmax: Scale
    """Logit to steps of 2**-7 octave."""
    experts: Annotated[tuple[IntMlp, ...], Items(1, MAX_EXPERTS)]
    name: str
    wide: bool = False
    sigmoid: bool = False
    parallel: bool = False
    """As :attr:`IntAttention.parallel`."""
    corrections: Annotated[NDArray[np.int32], Vector] | None = None
    """[experts], with ``sigmoid``: added to the sigmoids for the choice of experts alone, in steps
    of 2**-SIGMOID_FRACTION_BITS, CORRECTION_BITS wide."""


@dataclass(frozen=True)
class IntRenorm:
    """The residual stream begins anew: zeros, to which ``linears`` of the 16-bit normalised rows of
    the stream before are added one after the other (24-bit addends, ``semantics.residual_add``)."""

    norm: IntNorm
    linears: Annotated[tuple[IntLinear, ...], Items(1, 2)]
    """A matrix in 8 bits, and what they lose of it."""
    residual_scale: Step
    """From here on, as ``IntGraph.residual_scale`` is up to here."""
    name: str

    @property
    def wide(self) -> bool:
        """Which normalised rows are read, as in the other layers."""
        return True

    @property
    def parallel(self) -> bool:
        """It reads no rows but its own."""
        return False


IntLayer = IntAttention | IntDense | IntMoe | IntRenorm


@dataclass(frozen=True)
class IntHead:
    """One output of the task: ``linear`` gives int16 codes [rows, linear.outputs] for rows
    first_row .. first_row + rows of the stream behind the first ``depth`` layers, from the int8
    normalised rows or the 16-bit ones (``wide``).

    The output is ``(codes * scale).flatten()`` at ``permutation``, as float32 of ``shape``.
    """

    name: str
    """Of the output, or of the tensor that the host's part reads."""
    shape: Shape
    scale: Step
    permutation: Annotated[NDArray[np.int64], Any8]
    depth: Annotated[int, Range(0, MAX_LAYERS)]
    norm: IntNorm
    linear: IntLinear
    first_row: int
    rows: Count
    wide: bool = False

    @property
    def codes(self) -> int:
        """How many it gives of a frame."""
        return self.rows * self.linear.outputs


def head_name(number: int) -> str:
    """What points and messages call a head."""
    return f"head{number or ''}"


@dataclass(frozen=True)
class IntGraph:
    """One task.

    Input codes: ``floor(x / input_scale + 0.5) + input_zero`` clamped to int8, or to int16 where
    they are the first residual itself, then ``flatten()[gather]``, [patches, inputs]. Output codes
    of a frame are those of all heads, one behind the other.
    """

    task: str
    input_name: str
    input_shape: Shape
    input_scale: Step
    gather: Annotated[NDArray[np.int64], Matrix]
    residual_scale: Step
    """Real value of one step of the residual stream, up to the first :class:`IntRenorm`."""
    embed: IntEmbed | IntTokens
    layers: Annotated[tuple[IntLayer, ...], Items(0, MAX_LAYERS)]
    heads: Annotated[tuple[IntHead, ...], Items(1, MAX_HEADS)]
    """In the order of the model's outputs, in which their codes come, whatever their depths."""
    macs: int
    """Multiply-accumulates of one frame without any padding; experts count ``top_k`` a token."""
    input_zero: Annotated[int, Range(-128, 127)] = 0
    """Code of an input of 0; the embedding's bias has taken it out."""

    @property
    def tokens(self) -> int:
        return self.embed.tokens

    @property
    def channels(self) -> int:
        return self.embed.channels

    @property
    def codes(self) -> int:
        """Output codes of a frame."""
        return sum(head.codes for head in self.heads)

    def split_codes(self, codes: NDArray[np.int16]) -> list[NDArray[np.int16]]:
        """Output codes [frames, codes] of every head, [frames, rows, outputs]."""
        ends = np.cumsum([head.codes for head in self.heads])[:-1]
        return [
            part.reshape(len(codes), head.rows, head.linear.outputs)
            for part, head in zip(np.split(codes, ends, axis=1), self.heads, strict=True)
        ]

    @property
    def begins_anew(self) -> bool:
        """Whether the residual stream is emptied on the way."""
        return any(isinstance(layer, IntRenorm) for layer in self.layers)
