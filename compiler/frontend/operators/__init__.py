"""The table of operators: what each does to traced values, and what of it is understood."""

from __future__ import annotations

from moesaic.compiler.frontend.operators.call import Call, Note, Operator
from moesaic.compiler.frontend.operators.choosing import CHOICES
from moesaic.compiler.frontend.operators.composite import COMPOSITES
from moesaic.compiler.frontend.operators.elementwise import ELEMENTWISE
from moesaic.compiler.frontend.operators.fused import FUSED
from moesaic.compiler.frontend.operators.gathering import GATHERS
from moesaic.compiler.frontend.operators.mixtures import MIXTURES
from moesaic.compiler.frontend.operators.products import PRODUCTS
from moesaic.compiler.frontend.operators.reductions import REDUCTIONS

__all__ = ["OPERATORS", "Call", "Note", "Operator"]

_STANDARD = {**CHOICES, **ELEMENTWISE, **GATHERS, **PRODUCTS, **REDUCTIONS}
OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", name): operator for name, operator in _STANDARD.items()},
    **COMPOSITES,
    **FUSED,
    **MIXTURES,
}
"""By domain ("" is ONNX's own) and operator. Besides these, `layout` moves elements about, and what
reads constants alone is run by ONNX's reference evaluator."""
