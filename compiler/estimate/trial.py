"""One schedule on trial: no more of it is worked out than shows whether it is worth taking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from moesaic.compiler.codegen.task import Placed, Plan, check_weights, deal_fetches, place_steps
from moesaic.compiler.estimate.bound import least_cycles
from moesaic.compiler.estimate.cycles.frame import ProgramHangs
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import frame_cycles
from moesaic.compiler.schedule.capacity import WAY_OUT
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError


@dataclass(frozen=True)
class Trial:
    """A schedule with its program before it is encoded, and the cycles of all that is computed
    together."""

    schedule: Schedule
    placed: Placed
    plan: Plan
    cycles: int


@dataclass(frozen=True)
class Trials:
    """Trials of schedules for ``joint`` on ``arch`` behind ``memory``, by default that of reported
    figures."""

    joint: Joint
    arch: ArchConfig
    memory: Memory | None = None

    def place(self, schedule: Schedule, below: float = inf) -> Placed | None:
        """The steps of a schedule in their places; None where they take ``below`` cycles or more
        wherever they are.

        Raises
        ------
        UserError
            The model does not fit with this schedule.
        """
        for graph in self.joint.graphs:
            check_weights(graph, self.arch)
        steps = lower(self.joint, self.arch, schedule)
        # Estimates are rounded.
        if below < inf and least_cycles(steps, self.arch, self.memory) > below + 1:
            return None
        return place_steps(steps, self.arch)

    def run(
        self, schedule: Schedule, known: Trial | None = None, below: float = inf
    ) -> Trial | None:
        """The trial of a schedule; None where it takes ``below`` cycles or more. The steps are
        those of ``known`` where only its fetches differ.

        Raises
        ------
        UserError
            The model does not fit with this schedule.
        """
        if known and _but_fetches(schedule) == _but_fetches(known.schedule):
            return self.estimate(schedule, known.placed, below)
        placed = self.place(schedule, below)
        return self.estimate(schedule, placed, below) if placed else None

    def estimate(self, schedule: Schedule, placed: Placed, below: float = inf) -> Trial | None:
        """The same of steps that have their places.

        Raises
        ------
        UserError
            The program hangs: the memory plan rules it out by construction, and the search does not
            rely on that.
        """
        plan = deal_fetches(placed, ShapeImage(self.arch), schedule)
        try:
            cycles = frame_cycles(plan.steps, self.arch, self.memory, below)
        except ProgramHangs as error:
            raise UserError(
                f"the model does not fit target {self.arch.name}: {error}{WAY_OUT}"
            ) from error
        return Trial(schedule, placed, plan, cycles) if cycles < below else None


def _but_fetches(schedule: Schedule) -> Schedule:
    """Equal for schedules whose steps are the same before fetches are dealt out."""
    return replace(schedule, fetches_ahead=1, speculated_experts=0)
