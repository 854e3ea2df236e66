"""Which points get 16 bits: the most decibels for the cycles that their second plane takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moesaic.compiler.accuracy.candidates import Candidate, by_task, candidates_for
from moesaic.compiler.accuracy.sizes import cycles, widened
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.points import layer_point, wide_features, wide_name
from moesaic.compiler.quant import Calibrated, QuantReport
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress, say_nothing
from moesaic.spec.intgraph import IntGraph

MORE_TRIES = 4
"""Candidates that are tried although the sum of their cycles is beyond the budget."""


@dataclass(frozen=True)
class Goal:
    """What 16-bit rows are for.

    Attributes
    ----------
    sqnr_db
        Every task's SQNR at the end of the accelerator; None for as much as the budget gives.
    cycles
        Most cycles of a frame; None for no limit.
    more
        Most cycles that 16-bit rows may add, as a share of those without; None for no limit.
    """

    sqnr_db: float | None = None
    cycles: int | None = None
    more: float | None = None


Built = tuple[dict[str, IntGraph], dict[str, QuantReport]]


def choose_widths(
    calibrated: Calibrated,
    built: Built,
    arch: ArchConfig,
    goal: Goal,
    progress: Progress = say_nothing,
) -> tuple[Built, list[str]]:
    """Return the integer graphs with their reports, and the points that have 16 bits.

    ``built`` is what ``calibrated`` builds without any.

    Raises
    ------
    UserError
        The goal is out of reach; the message says how far it went.
    """
    progress("measuring what 16-bit rows gain")
    graphs, reports = built
    schedules = {task: choose_schedule(graph, arch) for task, graph in graphs.items()}
    plain = {task: cycles(graph, arch, schedules[task]) for task, graph in graphs.items()}
    for task, count in plain.items():
        if count > _limit(goal, count):
            raise UserError(
                f"a frame of task {task} takes {count} cycles without any 16-bit rows, more than"
                f" --budget-cycles {goal.cycles}: allow more, or choose a larger target"
            )
    if _reached(goal, reports):
        return built, []
    chosen, taken = _within(
        goal,
        candidates_for(calibrated, graphs, arch, schedules, plain, progress),
        graphs,
        arch,
        plain,
        progress,
    )

    def points(count: int) -> set[tuple[str, str]]:
        return set().union(*(candidate.points for candidate in chosen[:count]))

    # The fewest of them that reach the goal: what one alone gains is measured on few frames.
    fewest, most = 0, len(chosen)
    built = calibrated.build(by_task(points(most)))
    if goal.sqnr_db is None:
        # Gains are estimates: wide layers may lose more by weights that their sums make coarser.
        if _decibels(built[1]) <= _decibels(reports):
            return (graphs, reports), []
        return built, _names(points(most))
    if not _reached(goal, built[1]):
        task, report = min(built[1].items(), key=lambda pair: pair[1].sqnr_db)
        count = len(_names(points(most)))  # a point may have come in several steps
        raise UserError(
            f"task {task} reaches {report.sqnr_db:.1f} dB with all {count} points in 16 bits that"
            f" help and fit ({taken[task]} cycles, {plain[task]} without), not"
            f" {goal.sqnr_db:g}: ask for less, allow more cycles, or calibrate with more samples"
        )
    while most - fewest > 1:
        middle = (fewest + most) // 2
        tried = calibrated.build(by_task(points(middle)))
        if _reached(goal, tried[1]):
            most, built = middle, tried
        else:
            fewest = middle
    return built, _names(points(most))


def _within(
    goal: Goal,
    candidates: list[Candidate],
    graphs: dict[str, IntGraph],
    arch: ArchConfig,
    plain: dict[str, int],
    progress: Progress,
) -> tuple[list[Candidate], dict[str, int]]:
    """Those that fit memory and budget together, in their order, and the cycles with all.

    Alone they are estimated with the schedule of the 8-bit graph. Together they get one of their
    own, as the compiler will choose it, which may take less, or more, since planes compete: those
    that seem to fit are tried together, and then a few more that seem to be just too many.
    """
    chosen: list[Candidate] = []
    over: list[Candidate] = []
    expected = dict(plain)
    for candidate in candidates:
        after = {task: expected[task] + more for task, more in candidate.cycles.items()}
        if all(count <= _limit(goal, plain[task]) for task, count in after.items()):
            chosen.append(candidate)
            expected.update(after)
        else:
            over.append(candidate)

    def taken(some: list[Candidate]) -> dict[str, int] | None:
        """Their cycles, or None if they do not fit."""
        progress("scheduling 16-bit rows")
        points = set().union(*(candidate.points for candidate in some))
        result = dict(plain)
        try:
            for task, own in by_task(points).items():
                wide = widened(graphs[task], own)
                result[task] = cycles(wide, arch, choose_schedule(wide, arch))
        except UserError:  # more memory than there is
            return None
        return result if all(n <= _limit(goal, plain[task]) for task, n in result.items()) else None

    best = taken(chosen)
    while best is None:
        over.insert(0, chosen.pop())
        best = taken(chosen)
    for candidate in over[:MORE_TRIES]:
        if (found := taken([*chosen, candidate])) is not None:
            chosen.append(candidate)
            best = found
    return chosen, best


def _names(points: Iterable[tuple[str, str]]) -> list[str]:
    wide = wide_features(layer_point(point) for _, point in points)
    return sorted((wide_name(*one) for one in wide.items()), key=_order)


def _decibels(reports: dict[str, QuantReport]) -> float:
    """Of all tasks together."""
    return sum(report.sqnr_db for report in reports.values())


def _reached(goal: Goal, reports: dict[str, QuantReport]) -> bool:
    return goal.sqnr_db is not None and all(
        report.sqnr_db >= goal.sqnr_db for report in reports.values()
    )


def _limit(goal: Goal, plain: int) -> float:
    limits = [float("inf")]
    if goal.cycles is not None:
        limits.append(goal.cycles)
    if goal.more is not None:
        limits.append((1 + goal.more) * plain)
    return min(limits)


def _order(point: str) -> tuple[int, str]:
    first, _, rest = point.partition(".")
    return (int(first), rest) if first.isdigit() else (1 << 30, point)
