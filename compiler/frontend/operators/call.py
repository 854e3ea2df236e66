"""One node with its inputs traced, and what of an operator is understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view
from moesaic.compiler.frontend.views import NotRecognised, View

Note = tuple[str, str]
"""What a report should say, and the node that it is about."""

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
)


@dataclass
class Call:
    """One node with its inputs traced and its attributes decoded."""

    algebra: Algebra
    node: onnx.NodeProto
    inputs: list[Value | None]
    attributes: dict[str, Any]
    opset: int
    types: list[int] = field(default_factory=list)
    """ONNX element type of each input; UNDEFINED where it is not known."""

    def value(self, index: int) -> Value:
        """Return an input that must be there."""
        if index >= len(self.inputs) or self.inputs[index] is None:
            raise NotRecognised(f"input {index} is missing")
        return self.inputs[index]  # type: ignore[return-value]

    def view(self, index: int) -> View:
        """Return an input as a view."""
        return as_view(self.value(index))

    def constant(self, index: int, what: str) -> NDArray[np.generic]:
        """Return an input that must be a constant."""
        value = self.value(index)
        if isinstance(value, View):
            raise NotRecognised(f"its {what} must be a constant")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def element_type(self, index: int) -> int:
        """Return the ONNX element type of an input, UNDEFINED if it is not known."""
        return self.types[index] if index < len(self.types) else onnx.TensorProto.UNDEFINED


Handler = Callable[[Call], Sequence[Value | None]]

ANY = None
"""In :attr:`Operator.fixed`: every value of an attribute means the same here."""


@dataclass(frozen=True)
class Operator:
    """What of one ONNX operator is understood; all else is refused by name.

    Attributes
    ----------
    run
        Computes the outputs from a :class:`Call`; it may give fewer than the node has, or None for
        some, and a node that reads one of those is refused.
    inputs
        Inputs that ``run`` looks at; None: all of them.
    attributes
        Those that ``run`` looks at.
    fixed
        Those that it does not, and the values at which that is right (ANY: it always is).
    """

    run: Handler
    inputs: int | None
    attributes: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)

    def __call__(self, call: Call) -> Sequence[Value | None]:
        """Check that all of a node is understood, and run it.

        Raises
        ------
        NotRecognised
            Something of it is not.
        """
        for name, value in call.attributes.items():
            if name in self.attributes:
                continue
            if name not in self.fixed:
                raise NotRecognised(f"attribute {name!r} is not supported")
            allowed = self.fixed[name]
            if allowed is not ANY and value not in allowed:
                known = " or ".join(repr(entry) for entry in allowed)
                raise NotRecognised(f"attribute {name!r} must be {known}, not {value!r}")
        if self.inputs is not None:
            for index, given in enumerate(call.inputs[self.inputs :], self.inputs):
                if given is not None:
                    raise NotRecognised(f"input {index} is not supported")
        return self.run(call)
