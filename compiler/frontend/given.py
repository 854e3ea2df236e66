"""Which integers and steps of a quantised file belong to what is recognised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.quantised import BITS, Quantiser
from moesaic.compiler.frontend.views import NONE, Arena, NotRecognised, Rounded, View
from moesaic.compiler.ir import FloatArray

MOST_CODE = 127
"""Largest magnitude of a weight's code."""
NO_ZERO = "activations with a zero point are rounded around 0 at a step calibrated here"
"""A note on queries, keys, values and attended values."""
NO_INTEGERS = "weights that are no int8 with a scale for each output are quantised anew"
"""A note on layers of a quantised file."""
CLOSE = 1e-6
"""Relative difference of equal scales: factors of files are rounded to float32."""


def find_codes(arena: Arena, weight: FloatArray) -> NDArray[np.int8] | None:
    """Return the integers [O, K] that a weight [O, K] has in the file, if it has any.

    They are found by value: integers times the scales of one of the file's quantised matrices that
    give the weight to the bit, however it was moved on the way to its product.

    Raises
    ------
    NotRecognised
        They have more bits than the accelerator.
    """
    for held in arena.weights:
        if held.scale.size in (1, weight.shape[0]):
            candidates = [held.scale]
        else:  # matrices of several experts in one tensor, a scale for each
            candidates = list(held.scale[:, None]) if held.codes.ndim > 2 else []
        for scale in candidates:
            steps = np.broadcast_to(scale, weight.shape[:1])[:, None]
            for part in (slice(1), slice(None)):  # one row settles it nearly always
                codes = np.rint(weight[part] / steps[part])
                if not np.array_equal(codes * steps[part], weight[part]):
                    break
            else:
                if held.bits > BITS:
                    raise NotRecognised(
                        f"its weights have {held.bits} bits at {held.node}, where the accelerator "
                        f"has {BITS}: quantise with weight_type=QuantType.QInt8"
                    )
                if np.abs(codes).max(initial=0) <= MOST_CODE:
                    return codes.astype(np.int8)
    return None


def note_rounding(arena: Arena, view: View, quantiser: Quantiser) -> None:
    """Remember that the file rounds a value to integers."""
    elements = view.ids[view.ids != NONE]
    sources = arena.sources_of(view)
    if len(sources) == 1 and elements.size:
        arena.rounded.setdefault(sources[0].start, []).append(Rounded(view, quantiser))


def find_rounding(arena: Arena, view: View) -> tuple[Quantiser, float] | None:
    """Return the last quantiser that the file has on the values of a view, and its step there.

    The file may quantise them before or behind a scale of all: the step is the view's.
    """
    sources = arena.sources_of(view)
    if len(sources) != 1 or (view.ids == NONE).any():
        return None
    source = sources[0]
    local = (view.ids - source.start).reshape(-1)
    scale, offset = view.scale.reshape(-1), view.offset.reshape(-1)
    for rounded in reversed(arena.rounded.get(source.start, [])):
        place = rounded.places(source.start, source.size)[local]
        if (place == NONE).any():
            continue
        other = rounded.view.scale.reshape(-1)[place]
        factor = float(other[0] / scale[0]) if scale[0] else 0.0
        shifted = rounded.view.offset.reshape(-1)[place]
        if (
            factor > 0
            and np.allclose(other, factor * scale, rtol=CLOSE, atol=0.0)
            and np.allclose(shifted, factor * offset, rtol=CLOSE, atol=0.0)
        ):
            return rounded.quantiser, rounded.quantiser.step / factor
    return None


def find_step(arena: Arena, view: View, what: str) -> float | None:
    """Return the step that the file gives the values of a view, if it gives one that the
    accelerator has, too.

    One of codes around another zero point is noted, and not taken: products of two activations have
    none.

    Raises
    ------
    NotRecognised
        Its codes are not of 8 bits.
    """
    step, zero = find_step_and_zero(arena, view, what)
    if not zero:
        return step
    found = find_rounding(arena, view)
    assert found is not None
    arena.notes.add((NO_ZERO, found[0].node))
    return None


def find_step_and_zero(arena: Arena, view: View, what: str) -> tuple[float | None, int]:
    """Return the step that the file gives the values of a view, and the int8 code of 0 there.

    (None, 0) where it gives none.

    Raises
    ------
    NotRecognised
        Its codes are not of 8 bits.
    """
    found = find_rounding(arena, view)
    if found is None:
        return None, 0
    quantiser, step = found
    if quantiser.bits != BITS:
        raise NotRecognised(
            f"{quantiser.node} rounds the {what} to {quantiser.bits} bits, where the accelerator "
            f"has {BITS}: quantise activations with activation_type=QuantType.QInt8"
        )
    if not -128 <= quantiser.signed_zero <= MOST_CODE:
        raise NotRecognised(
            f"{quantiser.node} gives the {what} the zero point {quantiser.zero}, which is no code "
            f"of {BITS} bits: quantise the float model again"
        )
    return step, quantiser.signed_zero


def find_output_step(arena: Arena, view: View) -> float | None:
    """Return the step of an output in 8 bits around 0 that hold what the file's codes hold."""
    found = find_rounding(arena, view)
    if found is None:
        return None
    quantiser, step = found
    wide = step * 2.0 ** (quantiser.bits - BITS)
    return wide if quantiser.is_symmetric else 2 * wide
