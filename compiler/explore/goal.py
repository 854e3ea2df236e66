"""What is looked for, and which of the targets that were judged are the best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moesaic.compiler.explore.judge import Verdict

OBJECTIVES = ("latency", "fps", "area")
"""latency: cycles of the slowest task. fps: cycles of a frame of every task, one after the other.
area: the largest share of the part."""


@dataclass(frozen=True)
class Goal:
    """What is looked for."""

    objective: str
    most_cycles: int | None = None
    """Of the slowest task; a slower target is refused."""

    def value(self, verdict: Verdict) -> float:
        """What is made small."""
        if self.objective == "area":
            return verdict.area
        return float(slowest(verdict) if self.objective == "latency" else sum_of(verdict))

    def meets(self, verdict: Verdict) -> bool:
        return self.most_cycles is None or slowest(verdict) <= self.most_cycles


def slowest(verdict: Verdict) -> int:
    """Cycles of the task that takes the most."""
    return max(verdict.cycles.values())


def sum_of(verdict: Verdict) -> int:
    """Cycles of a frame of every task."""
    return sum(verdict.cycles.values())


def pareto(found: Iterable[Verdict]) -> list[Verdict]:
    """Those for which no other one is both as small and faster; the fastest first."""
    result: list[Verdict] = []
    runs = [verdict for verdict in found if verdict.cycles]
    for verdict in sorted(runs, key=lambda v: (slowest(v), v.area)):
        if not result or verdict.area < result[-1].area:
            result.append(verdict)
    return result


def best(found: Iterable[Verdict], goal: Goal) -> Verdict | None:
    """The one that the goal asks for; of equal ones the smallest."""
    good = [verdict for verdict in found if verdict.cycles and goal.meets(verdict)]
    order = [(goal.value(v), v.area, slowest(v), n) for n, v in enumerate(good)]
    return good[min(order)[-1]] if good else None
