"""Reading rotary position embeddings off traced queries and keys.

However a file writes them (halves exchanged with a Neg and a Concat, every other channel, tokens
in front left out), every element is a sum of elements of one linear layer: each token rotates pairs
of them by angles of its own. So nothing is matched but the numbers: the sums are taken apart, and
what they have in common is the layer, what they have not is a rotation of each pair, or is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    NotRecognised,
    Product,
    RealArray,
    Sum,
    View,
)
from moesaic.compiler.ir import IndexArray

TOLERANCE = 1e-5
"""Cosines and sines are rounded to float32 in the file, and biases are multiplied by them."""


@dataclass(frozen=True)
class Turn:
    """A head's channels ``first`` and ``second`` [pairs] are rotated by angles [tokens, pairs]."""

    first: IndexArray
    second: IndexArray
    cosine: RealArray
    sine: RealArray

    def same(self, other: Turn) -> bool:
        """Whether both rotate the same channels by the same angles."""
        return (
            np.array_equal(self.first, other.first)
            and np.array_equal(self.second, other.second)
            and self.same_angles(other)
        )

    def same_angles(self, other: Turn) -> bool:
        """Whether both rotate by the same angles, whatever the channels."""
        mine, its = (np.stack([turn.cosine, turn.sine]) for turn in (self, other))
        return mine.shape == its.shape and np.allclose(mine, its, rtol=0, atol=TOLERANCE)

    @property
    def order(self) -> IndexArray:
        """Channels, all first ones before all second ones."""
        return np.concatenate([self.first, self.second])


def read_turned(arena: Arena, view: View, what: str) -> tuple[View, Turn | None, float]:
    """Take the rotation off queries or keys [tokens, channels] of a head.

    Returns the values that are rotated, in the order of the channels, the rotation (None if there
    is none), and a factor that all of it is scaled by.

    Raises
    ------
    NotRecognised
        Elements are added up, but not as a rotation of pairs.
    """
    if not any(isinstance(source, Sum) for source in arena.sources_of(view)):
        return view, None, 1.0
    terms = _terms(arena, view)
    sources = {source for term in terms for source in arena.sources_of(term)}
    products = [source for source in sources if isinstance(source, Product)]
    if len(products) != 1 or len(sources) != 1:
        return view, None, 1.0  # whoever reads it says what it is
    try:
        return _read(terms, products[0])
    except NotRecognised as error:
        raise NotRecognised(f"the {what} of {products[0].node} is no rotation: {error}") from error


def _terms(arena: Arena, view: View) -> list[View]:
    """Views whose sum is a view and that have no elements of sums; constants are in the first."""
    done, waiting = [], [view]
    while waiting:
        view = waiting.pop(0)
        sums = [source for source in arena.sources_of(view) if isinstance(source, Sum)]
        if not sums:
            done.append(view)
            continue
        count = max(len(source.terms) for source in sums)
        if len(done) + len(waiting) + count > 8:
            raise NotRecognised(f"{sums[0].node} adds up more than a pair")
        for number in range(count):
            ids, scale = np.full(view.shape, NONE), np.zeros(view.shape)
            offset = np.zeros(view.shape)
            if number == 0:  # what is no sum stays in the first view
                ids[:], scale[:], offset[:] = view.ids, view.scale, view.offset
            for source in sums:
                mask = (view.ids >= source.start) & (view.ids < source.start + source.size)
                if number >= len(source.terms):
                    continue
                outer = view[mask] if number == 0 else view[mask].unshifted
                inner = source.terms[number].at(outer.ids - source.start, outer)
                ids[mask], scale[mask], offset[mask] = inner.ids, inner.scale, inner.offset
            waiting.append(View(ids, scale, offset))
    return done


def _read(terms: list[View], source: Product) -> tuple[View, Turn | None, float]:
    tokens, channels = terms[0].shape
    width = source.weight.shape[0]
    offset = np.sum([term.offset for term in terms], axis=0)
    rows, columns, factors = _elements(terms, source, width)
    # factors[channel][column] [tokens]
    used: list[dict[int, RealArray]] = [{} for _ in range(channels)]
    for channel in range(channels):
        for column in np.unique(columns[:, :, channel][factors[:, :, channel] != 0]):
            part = np.where(columns[:, :, channel] == column, factors[:, :, channel], 0.0).sum(0)
            if np.abs(part).max(initial=0.0) > 0:
                used[channel][int(column)] = part
    pairs, single = _pairs(used)
    lengths = [np.hypot(*used[first].values()) for first, _ in pairs]
    size = float(np.max(lengths)) if lengths else 0.0
    if not size:
        raise NotRecognised("no two channels are rotated")
    cosines, sines, biases = [], [], np.zeros(channels)
    own = np.zeros(channels, np.int64)
    for first, second in pairs:
        own[first], own[second], cosine, sine = _angles(used[first], used[second])
        cosines.append(cosine / size)
        sines.append(sine / size)
        biases[[first, second]] = _bias(
            cosine / size, sine / size, offset[:, first] / size, offset[:, second] / size
        )
    for channel in single:
        ((column, factor),) = used[channel].items()
        if not np.allclose(factor, size, rtol=TOLERANCE, atol=0.0):
            raise NotRecognised("a channel that is not rotated is scaled")
        if not np.allclose(offset[:, channel], offset[0, channel], rtol=0.0, atol=TOLERANCE):
            raise NotRecognised("something is added to some tokens only")
        own[channel], biases[channel] = column, offset[0, channel] / size
    if len(single) % 2:
        raise NotRecognised(f"{len(single)} of its channels are not rotated, an odd number")
    half = len(single) // 2
    firsts = np.array([*(pair[0] for pair in pairs), *single[:half]], np.int64)
    seconds = np.array([*(pair[1] for pair in pairs), *single[half:]], np.int64)
    ones, zeros = [np.ones(tokens)] * half, [np.zeros(tokens)] * half
    turn = Turn(firsts, seconds, np.stack([*cosines, *ones], 1), np.stack([*sines, *zeros], 1))
    ids = source.start + rows[:, None] * width + own
    ones_all = np.broadcast_to(1.0, ids.shape)
    return View(ids, ones_all, np.broadcast_to(biases, ids.shape)), turn, size


def _elements(
    terms: list[View], source: Product, width: int
) -> tuple[IndexArray, IndexArray, RealArray]:
    """Row of the layer for each token, and for each term [terms, tokens, channels] the layer's
    column and the factor (0 where there is none)."""
    ids = np.stack([term.ids for term in terms])
    factors = np.where(ids == NONE, 0.0, np.stack([term.scale for term in terms]))
    element = ids - source.start
    row = np.where(factors != 0, element // width, -1)
    rows = row.max((0, 2))
    if (rows < 0).any() or ((row != -1) & (row != rows[None, :, None])).any():
        raise NotRecognised("a token takes elements of another one")
    return rows, np.where(factors != 0, element % width, -1), factors


def _pairs(used: list[dict[int, RealArray]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Channels that are made of the same two columns, and those that are made of one."""
    by_columns: dict[frozenset[int], list[int]] = {}
    for channel, parts in enumerate(used):
        by_columns.setdefault(frozenset(parts), []).append(channel)
    pairs, single = [], []
    for columns, channels in by_columns.items():
        if len(columns) == 1:
            single += channels
        elif len(columns) == 2 and len(channels) == 2:
            pairs.append((channels[0], channels[1]))
        else:
            raise NotRecognised(f"a channel is made of {len(columns)} others")
    return sorted(pairs), sorted(single)


def _angles(
    first: dict[int, RealArray], second: dict[int, RealArray]
) -> tuple[int, int, RealArray, RealArray]:
    """Columns that both channels of a pair are without an angle, and cosine and sine [tokens]."""
    one, other = first
    for own, partner in ((one, other), (other, one)):
        cosine, sine = first[own], second[own]
        largest = max(np.abs(cosine).max(), np.abs(sine).max())
        if np.allclose(second[partner], cosine, rtol=0.0, atol=TOLERANCE * largest) and np.allclose(
            first[partner], -sine, rtol=0.0, atol=TOLERANCE * largest
        ):
            return own, partner, cosine, sine
    raise NotRecognised("two channels are mixed by other factors than a cosine and a sine")


def _bias(
    cosine: RealArray, sine: RealArray, first: RealArray, second: RealArray
) -> NDArray[np.float64]:
    """The constant of both channels in front of a rotation that leaves ``first``, ``second``."""
    square = cosine**2 + sine**2
    if (square == 0).any():
        raise NotRecognised("a token's channels vanish")
    back = (
        (cosine * first + sine * second) / square,
        (cosine * second - sine * first) / square,
    )
    largest = max(1.0, *(np.abs(part).max() for part in back))
    if any(np.ptp(part) > TOLERANCE * largest for part in back):
        raise NotRecognised("something is added behind it, or a bias is not rotated")
    return np.array([part.mean() for part in back])
