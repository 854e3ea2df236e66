"""Whether a schedule still pays where DRAM sustains less than it was chosen for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.trial import Trials
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.memory import BOARD_SHARE, share_name

WORTH_SAYING = 0.02
"""Share of the cycles that another schedule saves."""


def schedule_notes(
    work: IntGraph | Joint, arch: ArchConfig, schedule: Schedule, memory: Memory | None = None
) -> list[str]:
    """A sentence where ``schedule``, chosen for ``memory``, loads weights again to keep the array
    busy, and loading them once is faster with the share of the ports' peak that boards are taken
    to sustain; else none.

    Only sizes count, and experts share the tokens, as where schedules are chosen.
    """
    memory = memory or Memory()
    once = replace(schedule, row_blocks=1, head_start=1)
    if memory.share <= BOARD_SHARE or once == schedule:
        return []
    trials = Trials(Joint.of(work), arch, replace(memory, share=BOARD_SHARE))
    there = trials.run(schedule)
    assert there, "there is no limit"
    with suppress(UserError):  # rows in blocks may be what makes it fit
        other = trials.run(once, below=(1 - WORTH_SAYING) * there.cycles)
        if other:
            saved = 1 - other.cycles / there.cycles
            share = share_name(BOARD_SHARE)
            return [
                "the schedule loads weights again, which pays where DRAM sustains"
                f" {memory.share:.0%} of its ports' peak: with {BOARD_SHARE:.0%} one that loads"
                f" them once takes {saved:.0%} fewer cycles (--bandwidth {share})"
            ]
    return []
