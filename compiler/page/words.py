"""Figures as the page writes them."""

from __future__ import annotations

import math

from moesaic.spec.arch import ArchConfig


def number(value: float, digits: int = 0) -> str:
    """With separators of thousands."""
    return f"{value:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """So many digits; whole numbers keep all of theirs."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share: float, digits: int = 1) -> str:
    """A share of 0 to 1."""
    return f"{100 * share:.{digits}f} %"


def decibels(value: float) -> str:
    """SQNR; without any error it is infinite."""
    return f"{value:.1f}" if math.isfinite(value) else "exact"


def shape(sizes: tuple[int, ...]) -> str:
    """Sizes of a tensor."""
    return " x ".join(map(str, sizes))


def lane_words(arch: ArchConfig) -> str:
    """How many values the vector unit takes in a cycle."""
    more = f", {arch.most_lanes} of attention" if arch.chunk_pairs else ""
    return f"{arch.lanes} values{more}"
