"""What can have 16 bits, what it gains, and what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from moesaic.compiler.accuracy.noise import NoiseMeter
from moesaic.compiler.accuracy.reals import some_in_16_bits
from moesaic.compiler.accuracy.sizes import alike, cycles, hidden_channels, widened
from moesaic.compiler.points import ALL_FEATURES, layer_point, wide_name
from moesaic.compiler.quant import Calibrated
from moesaic.compiler.quant.build import may_be_wide
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress
from moesaic.spec.intgraph import IntGraph

COLUMN_TILES = 1, 2, 8
"""Of hidden channels that may have 16 bits without the others: a few are far larger than the rest
in networks that were trained long."""
FRAMES = 12
"""Of the calibration samples, at least: how much a point counts differs from frame to frame."""
LEAST_GAIN = 0.005
"""Share of a task's noise that 16 bits at a point must take away."""


@dataclass(frozen=True)
class Candidate:
    """Points that get 16 bits together: of all experts of a layer, and of tasks that share it."""

    points: frozenset[tuple[str, str]]
    gains: dict[str, float]
    """Task to the noise that goes, as a share of its signal."""
    cycles: dict[str, int]
    """Task to the cycles that come."""

    @property
    def worth(self) -> float:
        return sum(self.gains.values()) / max(1, sum(self.cycles.values()))

    def beyond(self, other: Candidate) -> Candidate:
        """What this one adds where the other one, of fewer features, is there."""
        return Candidate(
            self.points,
            {task: gain - other.gains[task] for task, gain in self.gains.items()},
            {task: count - other.cycles[task] for task, count in self.cycles.items()},
        )


def by_task(points: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    result: dict[str, set[str]] = defaultdict(set)
    for task, point in points:
        result[task].add(point)
    return result


def candidates_for(
    calibrated: Calibrated,
    graphs: dict[str, IntGraph],
    arch: ArchConfig,
    schedules: dict[str, Schedule],
    plain: dict[str, int],
    progress: Progress,
) -> list[Candidate]:
    """The worthiest first; ``plain`` are the cycles of ``graphs``, which have 8 bits throughout."""
    gains = _Gains(calibrated, graphs)
    costs = _Costs(graphs, arch, schedules, plain)
    found: list[Candidate] = []
    groups = _groups(calibrated)
    for number, points in enumerate(groups):
        progress("choosing 16-bit rows", number / len(groups))
        owned = by_task(points)
        options = []
        for count in _counts(graphs, points, arch):
            more = {task: costs.of(task, own, count) for task, own in owned.items()}
            fits = {task: cycles for task, cycles in more.items() if cycles is not None}
            if len(fits) == len(more):
                names = frozenset((task, wide_name(point, count)) for task, point in points)
                gain = {task: gains.of(task, own, count) for task, own in owned.items()}
                options.append(Candidate(names, gain, fits))
        found += _steps(options)
    useful = [
        one
        for one in found
        if any(gain > LEAST_GAIN * gains.total(task) for task, gain in one.gains.items())
    ]
    return sorted(useful, key=lambda one: -one.worth)


def _groups(calibrated: Calibrated) -> list[set[tuple[str, str]]]:
    """Points that get 16 bits together: tasks that share one keep it equal, or its weights are
    stored twice."""
    groups: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for task, graph in calibrated.graphs.items():
        named: dict[str, list[str]] = defaultdict(list)
        for point in dict.fromkeys(may_be_wide(graph)):
            named[layer_point(point)].append(point)
        for names in named.values():
            key = min(calibrated.shared.find(task, point) for point in names)
            groups[key] |= {(task, point) for point in names}
    return list(groups.values())


class _Gains:
    """How much of a task's noise goes with 16 bits, on calibration samples."""

    def __init__(self, calibrated: Calibrated, graphs: dict[str, IntGraph]) -> None:
        self._scales = calibrated.scales()
        self._meters = {
            task: NoiseMeter(graph, calibrated.samples[task], FRAMES)
            for task, graph in graphs.items()
        }
        self._alone = {
            task: {name: meter.typical(own) for name, own in meter.by_layer_point().items()}
            for task, meter in self._meters.items()
        }

    def total(self, task: str) -> float:
        return sum(self._alone[task].values())

    def of(self, task: str, points: set[str], count: int) -> float:
        """With ``count`` features of each of the points, which are those of a layer's experts."""
        gain = self._alone[task][layer_point(next(iter(points)))]
        if count == ALL_FEATURES:
            return gain
        left = {point: some_in_16_bits(self._scales, task, point, count) for point in points}
        return gain - self._meters[task].typical(left)


class _Costs:
    """The cycles that 16 bits add; layers of the same sizes are estimated once."""

    def __init__(
        self,
        graphs: dict[str, IntGraph],
        arch: ArchConfig,
        schedules: dict[str, Schedule],
        plain: dict[str, int],
    ) -> None:
        self._graphs, self._arch, self._schedules, self._plain = graphs, arch, schedules, plain
        self._known: dict[tuple[str, object, int], int | None] = {}

    def of(self, task: str, points: set[str], count: int) -> int | None:
        """None where there is not enough memory."""
        name = layer_point(next(iter(points)))
        graph = self._graphs[task]
        size = task, alike(graph, name), count
        if size not in self._known:
            try:
                wide = widened(graph, [wide_name(name, count)])
                more = cycles(wide, self._arch, self._schedules[task]) - self._plain[task]
            except UserError:
                more = None
            self._known[size] = more
        return self._known[size]


def _counts(
    graphs: dict[str, IntGraph], points: set[tuple[str, str]], arch: ArchConfig
) -> list[int]:
    """In how many features a point may have 16 bits: all, or of hidden rows a few column tiles."""
    if not all(point.endswith("hidden") for _, point in points):
        return [ALL_FEATURES]
    most = min(hidden_channels(graphs[task], point) for task, point in points)
    tiles = [count * arch.width for count in COLUMN_TILES]
    return [*(count for count in tiles if 2 * count <= most), ALL_FEATURES]


def _steps(options: list[Candidate]) -> list[Candidate]:
    """Options for one point, the smallest first, as additions to the one before: each is worth more
    than the next, and one that is not is left out."""
    steps: list[tuple[Candidate, Candidate]] = []  # an option, and what it adds
    for option in options:
        added = option
        while steps:
            added = option.beyond(steps[-1][0])
            if added.worth < steps[-1][1].worth:
                break
            steps.pop()
            added = option
        steps.append((option, added))
    return [added for _, added in steps]
