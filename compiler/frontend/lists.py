"""Terms of a residual sum that differ between tokens: what each adds, and to which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler.frontend.gates import is_mixture
from moesaic.compiler.frontend.views import NONE, Arena, NotRecognised, RealArray, View
from moesaic.compiler.ir import IndexArray

MOST_SCALES = 4
"""Of one source: each list has weights of its own."""


@dataclass
class Listed:
    """What a branch adds to some ``tokens``, which ascend: values [tokens, channels]."""

    value: View
    tokens: IndexArray


def divide(arena: Arena, term: View) -> tuple[list[View | Listed], RealArray]:
    """Divide a term [T, C] by the layer that each token's row comes from.

    Experts of modalities stand side by side (Concat, Where, scattered rows), those of a hash below
    constant masks. Whatever the operators were, a row is of one source, times one factor for each
    channel; rows that agree in both are a list. Rows without either are constants.

    Returns
    -------
    The term as it is, or lists of tokens that share none, and constants [T, C] that are added
    beside them.

    Raises
    ------
    NotRecognised
        There are too many.
    """
    nothing = np.zeros(term.shape)
    constant = ((term.ids == NONE) | (term.scale == 0)).all(1)
    sources = arena.sources_of(term[~constant])
    of = np.full(term.shape, NONE)
    for number, source in enumerate(sources):
        of[(term.ids >= source.start) & (term.ids < source.start + source.size)] = number
    if constant.all() or (of[~constant] != of[~constant, :1]).any():
        return [term], nothing  # what mixes sources in a row is refused where it is read
    rows_of: dict[tuple[int, bytes], list[int]] = {}
    for row in np.flatnonzero(~constant).tolist():
        key = int(of[row, 0]), np.ascontiguousarray(term.scale[row]).tobytes()
        rows_of.setdefault(key, []).append(row)
    whole = len(sources) == 1 and not constant.any()
    if whole and (len(rows_of) == 1 or is_mixture(arena, term)):
        return [term], nothing
    for number, source in enumerate(sources):
        scales = sum(of_source == number for of_source, _ in rows_of)
        if scales > MOST_SCALES:
            raise NotRecognised(
                f"its scale differs between tokens: {source.node} has {scales} of them, at most"
                f" {MOST_SCALES} are supported"
            )
    beside = np.where(constant[:, None], term.offset, 0.0)
    lists = (np.array(rows) for rows in rows_of.values())
    return [Listed(term[tokens], tokens) for tokens in lists], beside


def spread(view: View, rows: IndexArray, tokens: int) -> View:
    """Return a view [tokens, C] that has ``view`` [n, C] in some rows and zeros in the others."""
    shape = tokens, view.shape[1]
    ids, scale, offset = np.full(shape, NONE), np.zeros(shape), np.zeros(shape)
    ids[rows], scale[rows], offset[rows] = view.ids, view.scale, view.offset
    return View(ids, scale, offset)


def replace_rows(view: View, rows: IndexArray, part: View) -> View:
    """Return a view [tokens, C] with ``part`` [n, C] in place of some rows."""
    ids, scale, offset = view.ids.copy(), view.scale.copy(), view.offset.copy()
    ids[rows], scale[rows], offset[rows] = part.ids, part.scale, part.offset
    return View(ids, scale, offset)
