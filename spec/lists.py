"""Layers that work on some of the tokens only: which lists need a queue, and what it is made of.

Rows that follow one another need none: a product has a first row and a count. Others are the queue
of an expert, which ROUTE fills from scores as it does for a router's: the scores come from a table
in the CONSTANT window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.intgraph import IntDense, IntGraph, IntLayer


def listed(graph: IntGraph) -> int:
    """How many layers have a list of tokens."""
    return sum(isinstance(layer, IntDense) and layer.tokens is not None for layer in graph.layers)


def is_scattered(layer: IntLayer) -> bool:
    """Whether a layer's tokens do not follow one another."""
    if not isinstance(layer, IntDense) or layer.tokens is None:
        return False
    return bool((np.diff(layer.tokens) != 1).any())


def scattered(graph: IntGraph) -> dict[int, NDArray[np.int64]]:
    """Tokens of the layers that need a queue, by their numbers."""
    return {
        number: layer.tokens
        for number, layer in enumerate(graph.layers)
        if isinstance(layer, IntDense) and layer.tokens is not None and is_scattered(layer)
    }


def list_table(graph: IntGraph) -> NDArray[np.int8]:
    """[tokens, scattered layers]: 1 for the tokens of each."""
    lists = scattered(graph)
    table = np.zeros((graph.tokens, len(lists)), np.int8)
    for column, tokens in enumerate(lists.values()):
        table[tokens, column] = 1
    return table


def routings(graph: IntGraph, most: int) -> list[list[int]]:
    """Numbers of scattered layers, those together whose queues one ROUTE makes.

    They follow one another, share no token, and are ``most`` at most.
    """
    found: list[list[int]] = []
    lists = scattered(graph)
    for number, tokens in lists.items():
        last = found[-1] if found else []
        joins = last and last[-1] == number - 1 and len(last) < most
        if joins and not any(np.isin(tokens, lists[other]).any() for other in last):
            last.append(number)
        else:
            found.append([number])
    return found
