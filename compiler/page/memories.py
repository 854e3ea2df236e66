"""The memories on the chip, and how full each is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesaic.compiler.page.facts import Facts, TaskFacts
from moesaic.spec import layout
from moesaic.spec.arch import ACCUMULATOR_BANKS


@dataclass(frozen=True)
class Memory:
    """An on-chip memory and the most that a task needs of it."""

    name: str
    size_bytes: int
    used: dict[str, float]
    """Task to the share in use, at the most."""
    what: str

    @property
    def most(self) -> float:
        return max(self.used.values())


def memories(facts: Facts) -> dict[str, Memory]:
    """All memories that are drawn, by place in the drawing."""
    arch, tasks = facts.arch, facts.tasks

    def shares(part: Callable[[TaskFacts], float]) -> dict[str, float]:
        return {name: part(task) for name, task in tasks.items()}

    def residual(task: TaskFacts) -> float:
        words = task.graph.tokens * layout.words(task.graph.channels, arch.lanes)
        return words / arch.residual_words

    def queues(task: TaskFacts) -> float:
        return max((max(e.tokens) for e in task.experts), default=0) / arch.max_tokens

    entry_bits = (arch.max_tokens - 1).bit_length() + 16
    return {
        "ring": Memory(
            "weight ring",
            arch.ring_bytes,
            shares(lambda task: task.estimate.fill.ring_peak_bytes / arch.ring_bytes),
            "weights that are fetched and not used yet",
        ),
        "activation": Memory(
            "activations",
            arch.activation_bytes,
            shares(lambda task: task.activation_bytes / arch.activation_bytes),
            f"int8 rows, {arch.activation_banks} banks",
        ),
        "residual": Memory(
            "residual",
            2 * arch.residual_bytes,
            shares(residual),
            "int16 rows, kept twice",
        ),
        "accumulator": Memory(
            "accumulators",
            ACCUMULATOR_BANKS * arch.accumulator_rows * arch.width * 4,
            shares(lambda task: task.estimate.fill.accumulator_rows / arch.accumulator_rows),
            f"int32 sums, {ACCUMULATOR_BANKS} banks",
        ),
        "queues": Memory(
            "expert queues",
            arch.max_experts * arch.max_tokens * entry_bits // 8,
            shares(queues),
            f"tokens and weights of {arch.max_experts} experts",
        ),
    }
