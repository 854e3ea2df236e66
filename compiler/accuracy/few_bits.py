"""Which layers get weights of four bits: the most bytes for the least noise."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.points import sites
from moesaic.compiler.quant import Calibrated, QuantReport
from moesaic.compiler.quant.weight_bits import weight_groups
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress, say_nothing
from moesaic.spec.intgraph import IntGraph

Built = tuple[dict[str, IntGraph], dict[str, QuantReport]]


@dataclass(frozen=True)
class _Group:
    """Layers that have four bits together, in all tasks that have them: shared weights stay equal.

    ``noise`` is what they add to the worst task, as a share of its signal; ``weights`` how many
    they are.
    """

    name: str
    noise: float
    weights: int


def choose_few(
    calibrated: Calibrated, built: Built, least_db: float, progress: Progress = say_nothing
) -> tuple[Built, list[str]]:
    """Return the integer graphs with their reports, and the groups whose weights have four bits.

    Each group is measured alone, on the samples that integers are measured on; then as many as keep
    every task at ``least_db``, those that add the least noise for their weights first. ``built`` is
    what ``calibrated`` builds without any.

    Raises
    ------
    UserError
        Eight bits throughout do not reach ``least_db``.
    """
    task, report = min(built[1].items(), key=lambda pair: pair[1].sqnr_db)
    if report.sqnr_db < least_db:
        raise UserError(
            f"task {task} reaches {report.sqnr_db:.1f} dB with weights of 8 bits, less than"
            f" --min-sqnr {least_db:g}: ask for less, or calibrate with more samples"
        )
    groups = _measured(calibrated, built, progress)

    def tried(count: int) -> Built:
        _set(calibrated, [group.name for group in groups[:count]])
        return calibrated.build()

    def reached(found: Built) -> bool:
        return all(one.sqnr_db >= least_db for one in found[1].values())

    few, many = 0, len(groups) + 1
    best = built
    # Noise adds up, nearly: the first guess is what the sums say, then halves.
    count = max(1, min(len(groups), _expected(groups, report.sqnr_db, least_db)))
    while many - few > 1:
        progress("choosing layers of four bits", few / many)
        found = tried(count)
        if reached(found):
            few, best = count, found
        else:
            many = count
        count = (few + many) // 2
    names = [group.name for group in groups[:few]]
    _set(calibrated, names)
    return best, names


def _measured(calibrated: Calibrated, built: Built, progress: Progress) -> list[_Group]:
    """All groups, the worthiest first."""
    counts: dict[str, int] = {}
    for graph in calibrated.graphs.values():
        sizes = {site.role: site.linear.weight.size for site in sites(graph)}
        for name, roles in weight_groups(graph).items():
            counts[name] = max(counts.get(name, 0), sum(sizes[role] for role in roles))
    plain = {task: _noise(report) for task, report in built[1].items()}
    found = []
    for number, (name, weights) in enumerate(counts.items()):
        progress("measuring layers of four bits", number / len(counts))
        _set(calibrated, [name])
        reports = calibrated.build()[1]
        noise = max(_noise(report) - plain[task] for task, report in reports.items())
        found.append(_Group(name, max(noise, 0.0), weights))
    return sorted(found, key=lambda group: group.noise / group.weights)


def _set(calibrated: Calibrated, names: list[str]) -> None:
    """What is built next has four bits in these groups."""
    calibrated.few = {
        task: {role for name in names for role in weight_groups(graph).get(name, ())}
        for task, graph in calibrated.graphs.items()
    }


def _noise(report: QuantReport) -> float:
    """Share of the signal of a task's worst output."""
    return float(10 ** (-report.sqnr_db / 10))


def _expected(groups: list[_Group], now_db: float, least_db: float) -> int:
    """How many groups keep the noise within bounds if it adds up."""
    left = 10 ** (-least_db / 10) - 10 ** (-now_db / 10)
    for count, group in enumerate(groups):
        left -= group.noise
        if left < 0:
            return count
    return len(groups)
