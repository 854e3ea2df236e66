"""Heads of one backbone: several tensors, each read from the stream behind some layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.head import read_head
from moesaic.compiler.frontend.read import State, make_linear, per_column
from moesaic.compiler.frontend.views import NONE, Arena, NotRecognised, View


@dataclass
class Tap:
    """A tensor, and what it is of a stream that it reads; or why it is nothing by itself."""

    tensor: str
    view: View
    head: ir.Head | None
    state: State | None
    why: NotRecognised | None


def read_taps(arena: Arena, tensors: Mapping[str, View]) -> list[Tap]:
    """Read each tensor as a head.

    Raises
    ------
    NotRecognised
        None is one.
    """
    taps = []
    for tensor, view in tensors.items():
        try:
            taps.append(Tap(tensor, view, *read_head(arena, view), None))
        except NotRecognised as error:  # the stream in front of all layers is known by its layers
            taps.append(Tap(tensor, view, None, None, error))
    for tap in taps:
        if tap.why is not None and all(other.state is None for other in taps):
            raise tap.why
    return taps


def last_state(arena: Arena, taps: Sequence[Tap]) -> State:
    """Return the stream that lies behind all that the taps read: what was computed last.

    Of taps of one stream, which may differ by a constant, that of a norm: a linear layer can take
    the constant, a norm cannot.
    """

    def place(tap: Tap) -> tuple[int, bool]:
        assert tap.state is not None and tap.head is not None
        sources = arena.sources_of(tap.state.view)
        return max((source.start for source in sources), default=-1), not tap.head.norm.plain

    last = max((tap for tap in taps if tap.state is not None), key=place).state
    assert last is not None
    return last


def place_heads(
    taps: Sequence[Tap], states: Sequence[State], layers: Sequence[ir.Layer]
) -> list[ir.Head]:
    """Return the heads at their places on the stream.

    Parameters
    ----------
    states
        The stream before the first layer and behind each, without those between parallel ones.

    Raises
    ------
    NotRecognised
        A tap reads something else.
    """
    behind = range(1, len(layers) + 1)
    depths = [0, *(n for n in behind if n == len(layers) or not layers[n].parallel)]
    heads = []
    for tap in taps:
        if tap.head is not None and tap.state is not None:
            found = _place(tap.head, tap.state, states)
        else:
            found = _whole_stream(tap, states)
        if found is None:
            reason = tap.why or NotRecognised(
                "it is computed from a stream that no layer of the others reads or makes"
            )
            raise NotRecognised(
                f"output {tap.tensor!r}: {reason}; or name the other outputs by --model-output"
            ) from tap.why
        head, number = found
        shape = tap.view.shape
        if shape[:1] != (1,):
            shape = (1, *shape)  # a tensor need have no batch axis, a frame has
        heads.append(replace(head, tensor=tap.tensor, shape=shape, depth=depths[number]))
    return heads


def _place(head: ir.Head, state: State, states: Sequence[State]) -> tuple[ir.Head, int] | None:
    """Find the stream that a head reads, which may differ by a constant if there is no norm."""
    view = state.view
    for number, other in enumerate(states):
        stream = other.view
        if view.shape != stream.shape or not np.array_equal(view.ids, stream.ids):
            continue
        if not np.array_equal(view.scale, stream.scale):
            continue
        if np.array_equal(view.offset, stream.offset):
            return head, number
        if head.norm.plain:
            shift = per_column(stream.offset - view.offset, "offset")
            bias = head.linear.bias - head.linear.weight.astype(np.float64) @ shift
            linear = replace(head.linear, bias=bias.astype(np.float32))
            return replace(head, linear=linear), number
    return None


def _whole_stream(tap: Tap, states: Sequence[State]) -> tuple[ir.Head, int] | None:
    """Find a stream whose elements a tensor is made of, constants among them: the first one has
    class tokens."""
    for number, state in enumerate(states):
        places = _places(tap.view.reshape(-1), state.view.reshape(-1))
        if places is None:
            continue
        channels = state.view.shape[1]
        rows, columns = places // channels, places % channels
        first, last = int(rows.min()), int(rows.max())
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        linear = make_linear(np.eye(channels), zeros.astype(np.float64), tap.tensor)
        head = ir.Head(
            norm=ir.Norm(ones, zeros, 0.0, tap.tensor, plain=True),
            linear=linear,
            first_row=first,
            rows=last - first + 1,
            permutation=(rows - first) * channels + columns,
            name=tap.tensor,
            tensor=tap.tensor,
            shape=(),
            depth=0,
        )
        return head, number
    return None


def _places(view: View, stream: View) -> ir.IndexArray | None:
    """Return where in a stream each element of a view is, both flat; None if one is nowhere."""
    # A constant is where its value is, everything else where its number is.
    names = [np.where(v.ids == NONE, v.offset, 0.0) for v in (view, stream)]
    order = np.lexsort((names[1], stream.ids))
    known = np.rec.fromarrays([stream.ids[order], names[1][order]])
    wanted = np.rec.fromarrays([view.ids, names[0]])
    places = np.minimum(np.searchsorted(known, wanted), order.size - 1)
    found = order[places]
    same = (
        np.array_equal(stream.ids[found], view.ids)
        and np.array_equal(stream.scale[found], view.scale)
        and np.array_equal(stream.offset[found], view.offset)
    )
    return found if same else None
