"""One model on several targets: which does it fit, and what keeps it from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import Routing, estimate_graphs
from moesaic.compiler.estimate.task import Estimate
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule.capacity import WAY_OUT
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph


@dataclass(frozen=True)
class TargetEstimate:
    """What became of one target: its tasks' estimates, or the reason why there are none."""

    arch: ArchConfig
    tasks: dict[str, Estimate]
    reason: str = ""
    """What does not fit, in a few words; "" if all does."""

    @property
    def fits(self) -> bool:
        return not self.reason


def refusal_reason(error: UserError, arch: ArchConfig) -> str:
    """What a sentence of the planner says is too small, without the target and the advice."""
    text = str(error).removeprefix(f"the model does not fit target {arch.name}: ")
    return text.removesuffix(WAY_OUT)


def estimate_targets(
    graphs: Mapping[str, IntGraph],
    archs: Iterable[ArchConfig],
    image: Callable[[ArchConfig], WeightImage],
    *,
    routing: Routing | None = None,
    memory: Memory | None = None,
    few: Mapping[str, IntGraph] | None = None,
    shares: Sequence[float] = (),
) -> Iterator[TargetEstimate]:
    """Estimate every task on every target; one that a task does not fit yields its reason.

    Parameters
    ----------
    graphs, routing, memory, shares
        As for :func:`~moesaic.compiler.estimate.models.estimate_graphs`.
    image
        Where segments are placed, for a target.
    few
        Graphs of fewer of the same blocks, whose schedules are taken: deep ones need no search.

    Raises
    ------
    UserError
        ``routing`` does not fit the models.
    """
    for arch in archs:
        try:
            schedules = None
            if few is not None:
                schedules = {
                    name: choose_schedule(graph, arch, memory=memory) for name, graph in few.items()
                }
            found = estimate_graphs(
                graphs,
                arch,
                routing=routing,
                memory=memory,
                image=image(arch),
                schedules=schedules,
                shares=shares,
            )
        except UserError as error:
            if not str(error).startswith("the model does not fit"):
                raise
            yield TargetEstimate(arch, {}, refusal_reason(error, arch))
        else:
            yield TargetEstimate(arch, found)
