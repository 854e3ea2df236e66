"""What a quantised file says of its tensors, once its quantisers have been taken out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BITS = 8
"""Of the accelerator's activations and weights."""


@dataclass(frozen=True)
class Quantiser:
    """What a pair of QuantizeLinear and DequantizeLinear, or a Quant node, does to a tensor."""

    step: float
    """Real value of one code."""
    zero: int
    """The code of 0."""
    bits: int
    signed: bool
    node: str
    """How messages name it."""

    @property
    def signed_zero(self) -> int:
        """The code of 0 where codes are counted from the middle of their range."""
        return self.zero - (0 if self.signed else 1 << self.bits - 1)

    @property
    def is_symmetric(self) -> bool:
        """Whether 0 has the code in the middle of the range."""
        return self.signed_zero == 0


@dataclass(frozen=True)
class QuantisedWeight:
    """A constant as integers: in the model it is ``codes * scale``, in float32."""

    codes: NDArray[np.int32]
    """In the constant's shape, zero points subtracted."""
    scale: NDArray[np.float32]
    """[1], or one for each place along `axis`."""
    axis: int
    bits: int
    node: str
    """How messages name what makes the constant."""


@dataclass
class Quantisation:
    """All quantisers of a file.

    Attributes
    ----------
    activations
        Tensor to its last quantiser, in the file's order.
    weights
        Matrices that the file holds as integers.
    """

    activations: dict[str, Quantiser] = field(default_factory=dict)
    weights: list[QuantisedWeight] = field(default_factory=list)
