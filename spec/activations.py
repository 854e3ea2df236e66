"""The activations that the accelerator knows, and the tables that make them.

A new one is an entry here, and a way to recognise it if it is no arithmetic that the frontend
reads. Its tables are of its correction (``semantics.activation_fine``): what it is less than z
where z is positive, and less than 0 where z is negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import tables

RealArray = NDArray[np.float64]
Function = Callable[[RealArray], RealArray]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _gelu(x: RealArray) -> RealArray:
    return np.asarray(0.5 * x * _erfc(-x / math.sqrt(2.0)))


def _gelu_tanh(x: RealArray) -> RealArray:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * _sigmoid(2 * inner)


def _sigmoid(x: RealArray) -> RealArray:
    """Without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, 1.0) / (1.0 + small))


def _quick_gelu(x: RealArray) -> RealArray:
    return x * _sigmoid(1.702 * x)


def _silu(x: RealArray) -> RealArray:
    return x * _sigmoid(x)


def _relu(x: RealArray) -> RealArray:
    return np.maximum(x, 0.0)


def _squared_relu(x: RealArray) -> RealArray:
    return np.asarray(np.maximum(x, 0.0) ** 2)


def _hard_swish(x: RealArray) -> RealArray:
    return np.asarray(x * np.clip(x + 3.0, 0.0, 6.0) / 6.0)


def _identity(peak: float) -> float:
    return peak


@dataclass(frozen=True)
class Activation:
    """One function.

    Attributes
    ----------
    function
        Of float64 arrays.
    lowest
        No result is below this.
    settled
        Beyond plus and minus this it is z and 0, but for less than 1e-5; the tables reach so far.
        0 where it never is: then they reach as far as z does.
    argument
        The largest z that gives a result.
    """

    function: Function
    lowest: float
    settled: float
    argument: Callable[[float], float] = _identity

    @property
    def linear(self) -> bool:
        """Whether it is z less a correction that ends."""
        return self.settled > 0


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(_gelu, -0.17, 5.5),
    "gelu_tanh": Activation(_gelu_tanh, -0.1701, 5.5),
    "quick_gelu": Activation(_quick_gelu, -0.1637, 7.8),
    "silu": Activation(_silu, -0.2785, 14.5),
    "relu": Activation(_relu, 0.0, 0.1),
    "squared_relu": Activation(_squared_relu, 0.0, 0.0, math.sqrt),
    "hard_swish": Activation(_hard_swish, -0.375, 3.1),
}
"""By name, as ``ir.Mlp.activation`` has it."""

FINEST_STEP = 2.0**-12
"""Of z: it saturates at 32, and the tables end at 8."""
COARSEST = 12
"""z's step is at most ``2**COARSEST`` of the finest one."""
REACH = (tables.ACTIVATION_ENTRIES - 1) << tables.ACTIVATION_STEP_BITS
"""Steps of z up to the last entry."""
RANGE = 1 << tables.ACTIVATION_INPUT_BITS - 1
"""Steps of z where it saturates."""


@dataclass(frozen=True, eq=False)
class Table:
    """An activation for one step of z; ``positive`` and ``negative`` int32
    [``ACTIVATION_ENTRIES``].

    ``step`` and ``fine`` are the real values of one step of z and of one step of the result.
    """

    name: str
    step: float
    positive: NDArray[np.int32]
    negative: NDArray[np.int32]
    linear: bool
    fine: float


def choose_step(name: str, peak: float) -> float:
    """The finest step of z, a power of two, whose range holds what gives ``peak`` as the largest
    result: up to its tables' end where the function does not settle. 0.25 beyond the peak is
    room."""
    activation = ACTIVATIONS[name]
    largest = activation.argument(1.25 * peak)
    for exponent in range(COARSEST + 1):
        step = FINEST_STEP * 2.0**exponent
        within = RANGE if activation.linear else REACH
        if within * step >= largest and REACH * step >= activation.settled:
            return step
    return FINEST_STEP * 2.0**COARSEST


@cache
def tabulate(name: str, step: float) -> Table:
    """The tables of an activation for z in steps of ``step``."""
    activation = ACTIVATIONS[name]
    between = step * (1 << tables.ACTIVATION_STEP_BITS)
    magnitude: RealArray = np.arange(tables.ACTIVATION_ENTRIES, dtype=np.float64) * between
    above = -activation.function(magnitude)
    below = -activation.function(-magnitude)
    if activation.linear:
        above = above + magnitude
        above[-1] = below[-1] = 0.0
        fine = step / (1 << tables.ACTIVATION_FINE_BITS)
    else:
        values = np.stack([above, below])
        fine = max(
            float(np.abs(values).max()) / ((1 << tables.ACTIVATION_VALUE_BITS - 1) - 1),
            float(np.abs(np.diff(values)).max()) / ((1 << tables.ACTIVATION_SLOPE_BITS - 1) - 1),
        )
    positive, negative = (np.rint(part / fine).astype(np.int32) for part in (above, below))
    for part in (positive, negative):
        part.flags.writeable = False
    return Table(name, step, positive, negative, activation.linear, fine)
