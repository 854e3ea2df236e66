"""Which points of several tasks must have one scale, so that equal weights stay equal.

The codes of a linear layer depend on its float weights and on the scales before and behind it.
Two tasks store it once only if all of these agree; so the points around linear layers that are
equal in two tasks are made one, with one merged range. So are the scores of gates that choose among
the same experts: tasks that are computed together have one softmax for them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

from moesaic.compiler import ir
from moesaic.compiler.points import Site, plain_points, sites

Key = tuple[str, str]
"""(task, point)."""


def digest(site: Site) -> str:
    """Equal for linear layers of equal role, shape, weights and bias."""
    state = hashlib.sha256(f"{site.role} {site.linear.weight.shape}".encode())
    state.update(site.linear.weight.tobytes())
    state.update(site.linear.bias.tobytes())
    return state.hexdigest()


class SharedPoints:
    """The partition of all (task, point) pairs into points that have one scale.

    Parameters
    ----------
    graphs
        Task name to graph, norms already folded.
    """

    def __init__(self, graphs: dict[str, ir.Graph]) -> None:
        self._parent: dict[Key, Key] = {}
        first_task, *other_tasks = graphs
        for task in other_tasks:
            # One residual scale for all: the first residual is a tensor that tasks share, too.
            self._join((task, "residual"), (first_task, "residual"))
        equal: dict[str, list[tuple[str, Site]]] = defaultdict(list)
        for task, graph in graphs.items():
            plain = plain_points(graph)
            for site in sites(graph):
                # Ranges of the stream itself and of normalised rows have nothing in common.
                stream = " stream" if site.source in plain else ""
                equal[f"{digest(site)}{stream}"].append((task, site))
        for (owner, first), *others in equal.values():
            for task, site in others:
                self._join((task, site.source), (owner, first.source))
                self._join((task, site.target), (owner, first.target))
        gates: dict[tuple[Key, int], list[Key]] = defaultdict(list)
        for task, graph in graphs.items():
            for site in sites(graph):
                if site.role.endswith(".gate"):
                    source = self.find(task, site.source)
                    gates[source, site.linear.outputs].append((task, site.target))
        for first_target, *targets in gates.values():
            for target in targets:
                self._join(target, first_target)

    def find(self, task: str, point: str) -> Key:
        """The representative of a point's set: the name under which its statistics are kept."""
        key = (task, point)
        while self._parent.get(key, key) != key:
            key = self._parent[key]
        return key

    def _join(self, one: Key, other: Key) -> None:
        self._parent[self.find(*one)] = self.find(*other)
