"""Which tensors of the file hold the residual stream, so that every layer can be checked."""

from __future__ import annotations

import hashlib

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.read import State
from moesaic.compiler.frontend.trace import Trace
from moesaic.compiler.frontend.views import View


def find_streams(
    traced: Trace, states: list[State], layers: list[ir.Layer]
) -> list[ir.Stream | None]:
    """Find a tensor in front of and behind each layer; it may differ from the stream by a constant.

    Parameters
    ----------
    states
        The residual stream before the first layer and behind each, without those between parallel
        ones.
    """
    sizes = {state.view.ids.size for state in states}
    named: dict[bytes, list[str]] = {}
    for name, value in traced.values.items():
        if isinstance(value, View) and value.ids.size in sizes:
            named.setdefault(_order(value), []).append(name)
    found = [_find(traced, state.view, named.get(_order(state.view), [])) for state in states]
    for number, layer in enumerate(layers):
        if layer.parallel:
            found.insert(number, None)
    return found


def _order(view: View) -> bytes:
    """Return a digest of the elements, whatever the shape, scale and offset."""
    ids = np.ascontiguousarray(view.ids.reshape(-1))
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()


def _find(traced: Trace, stream: View, names: list[str]) -> ir.Stream | None:
    """Return the first tensor that is the stream, else the first that differs by a constant."""
    shifted = None
    for name in names:
        value = traced.values[name]
        assert isinstance(value, View)
        if not np.array_equal(value.scale.reshape(stream.shape), stream.scale):
            continue
        offset = value.offset.reshape(stream.shape) - stream.offset
        if not offset.any():
            return ir.Stream(name, None)
        shifted = shifted or ir.Stream(name, offset)
    return shifted
