"""Cycles that no frame of some steps is below, wherever their operands lie."""

from __future__ import annotations

from collections.abc import Sequence

from moesaic.compiler.estimate.cycles.ports import weight_port
from moesaic.compiler.estimate.cycles.sizes import expert_rows, least_work
from moesaic.compiler.estimate.cycles.timing import Memory, Timing
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.arch import ArchConfig


def least_cycles(steps: Sequence[Step], arch: ArchConfig, memory: Memory | None = None) -> float:
    """Least cycles of :func:`~moesaic.compiler.estimate.task.frame_cycles`: the array takes a word
    per cycle, and all weights come through their ports.

    Parameters
    ----------
    steps
        Those of :func:`~moesaic.compiler.schedule.lower.lower`: it takes no addresses, tokens and
        STREAMs. Experts share the tokens equally.
    arch
        Sizes.
    memory
        External memory; by default that of reported figures.
    """
    words, ring_words = least_work(steps, expert_rows(steps, {}))
    port = weight_port(memory or Memory(), Timing.of(arch))
    return max(words, port.least(ring_words * arch.ring_read_bytes // arch.line_bytes))
