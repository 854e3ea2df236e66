"""Every figure of the page as tables: what charts and drawings show can be read there too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesaic.compiler.page.facts import Facts, TaskFacts
from moesaic.compiler.page.figures import FamilyFigures
from moesaic.compiler.page.memories import memories
from moesaic.compiler.page.timeline import Bar, Timeline
from moesaic.compiler.page.words import decibels, number, percent, significant
from moesaic.spec.manifest import FrontReport, HostReport
from moesaic.spec.memory import sustained_bytes

KIND_NAMES = {
    "lut": "LUT",
    "ff": "flip-flops",
    "dsp": "DSP",
    "bram36": "block RAM (36 Kbit)",
    "uram": "UltraRAM",
    "ebr": "block RAM (18 Kbit)",
}
"""Of :data:`moesaic.spec.parts.FAMILIES`."""


@dataclass(frozen=True)
class Table:
    """Texts; the first ``texts`` columns are words, the others figures."""

    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    foot: Sequence[str] = ()


def task_tables(facts: Facts, task: TaskFacts, timeline: Timeline) -> dict[str, Table]:
    """Those of a task, by place."""
    tables = {
        "cycles": _cycles(task),
        "shares": _shares(task, facts),
        "bars": _bars(task, timeline),
        "busy": _busy(task),
        "energy": _energy(task),
        "experts": _experts(task),
        "points": _points(task),
        "layers": _layers(task),
    }
    parts = [part for part in (task.figures.front, task.figures.host) if part]
    if parts:
        tables["host"] = _host(parts)
    return tables


def machine_tables(facts: Facts) -> dict[str, Table]:
    """Those of the whole bundle, by place."""
    rows = [
        [one.name, one.what, significant(one.size_bytes / 1024), *map(percent, one.used.values())]
        for one in memories(facts).values()
    ]
    traffic = [
        [
            name,
            significant(task.estimate.weight_bytes / 1e6),
            significant(task.estimate.data_bytes / 1e6),
            significant(task.dram_bytes / 1e6),
            significant(task.gigabytes_per_second),
        ]
        for name, task in facts.tasks.items()
    ]
    kinds = ["weights", "program, inputs, outputs", "all"]
    return {
        "memories": Table("Memories", ["memory", "holds", "KiB", *facts.tasks], rows, 2),
        "traffic": Table(
            "DRAM traffic of a frame", ["task", *(f"{k}, MB" for k in kinds), "GB/s"], traffic
        ),
    }


def joint_table(facts: Facts) -> Table:
    """What computing together saves, a row for each program."""
    rows = [
        [
            one.name,
            "accelerators take it" if one.used else "never: others are as fast",
            f"{one.common_layers} of {one.layers}",
            number(one.estimate.cycles),
            number(one.alone_cycles),
            percent(1 - one.estimate.cycles / one.alone_cycles),
            significant(facts.clock.milliseconds(one.estimate.cycles)),
            *map(number, one.estimate.cycles_at.values()),
        ]
        for one in facts.joint
    ]
    shares = [] if not facts.joint else list(facts.joint[0].estimate.cycles_at)
    head = ["program", "when", "layers in common", "cycles", "one by one", "saved", "ms"]
    head += [f"cycles at {percent(float(share), 0)}" for share in shares]
    return Table("Computed together", head, rows, 2)


def resource_tables(resources: Mapping[str, FamilyFigures]) -> dict[str, Table]:
    """Used, there, and the share, by family."""
    return {
        family: Table(
            f"Resources of {found.part}",
            ["resource", "used", "of", "share"],
            [
                [
                    KIND_NAMES[kind],
                    number(total, 1 if total % 1 else 0),
                    number(found.capacity[kind]),
                    percent(total / found.capacity[kind]) if found.capacity[kind] else "-",
                ]
                for kind, total in found.totals.items()
            ],
        )
        for family, found in resources.items()
    }


def _shares(task: TaskFacts, facts: Facts) -> Table:
    rows = [
        [
            percent(float(share), 0),
            significant(
                facts.clock.gigabytes_per_second(sustained_bytes(facts.arch, float(share)))
            ),
            number(cycles),
            significant(facts.clock.milliseconds(cycles)),
            significant(1e3 / facts.clock.milliseconds(cycles)),
        ]
        for share, cycles in task.estimate.cycles_at.items()
    ]
    head = ["DRAM sustains of its ports' peak", "GB/s", "cycles", "ms", "frames/s"]
    return Table(f"A frame of {task.name} by what DRAM sustains", head, rows)


def _cycles(task: TaskFacts) -> Table:
    total = task.estimate.cycles
    columns = ["product_cycles", "weight_cycles", "vector_cycles", "useful_cycles"]
    columns += ["padding_cycles"]
    reasons = list(task.layers[0].waits)
    rows = [
        [
            layer.short,
            number(layer.cycles),
            percent(layer.cycles / total),
            *(number(getattr(layer, column)) for column in columns),
            *map(number, layer.waits.values()),
        ]
        for layer in task.layers
    ]
    sums = [sum(getattr(layer, column) for layer in task.layers) for column in columns]
    sums += [sum(layer.waits[reason] for layer in task.layers) for reason in reasons]
    head = ["layer", "cycles", "share", "bound: products", "bound: weights", "bound: vector"]
    head += ["array: products", "array: padding", *(f"waits: {reason}" for reason in reasons)]
    foot = ["frame", number(total), "", *map(number, sums)]
    return Table(f"Cycles of the layers of {task.name}", head, rows, 1, foot)


def _bars(task: TaskFacts, timeline: Timeline) -> Table:
    groups: dict[tuple[str, str], list[Bar]] = defaultdict(list)
    for bar in timeline.bars:
        groups[bar.layer, bar.track].append(bar)
    rows = [
        [layer, track, number(len(bars)), number(min(bar.begin for bar in bars)),
         number(max(bar.end for bar in bars))]
        for (layer, track), bars in sorted(groups.items(), key=lambda one: one[1][0].begin)
    ]  # fmt: skip
    head = ["layer", "unit", "bars", "first cycle", "last cycle"]
    return Table(f"What the units of {task.name} do when", head, rows, 2)


def _busy(task: TaskFacts) -> Table:
    total = task.estimate.cycles
    rows = [
        [unit, number(busy), percent(busy / total)] for unit, busy in task.estimate.busy.items()
    ]
    head = ["unit", "cycles with data", "of the frame"]
    return Table(f"Work of the units in a frame of {task.name}, by the cost model", head, rows)


def _energy(task: TaskFacts) -> Table:
    head = ["what", "mJ", "low", "high", "of the frame"]
    label = f"Energy of a frame of {task.name} by a model; nothing was measured"
    if task.energy is None:
        return Table(
            label,
            head,
            [["no power figures of this family, or of its DRAM, are public", *4 * ["-"]]],
        )
    low, typical, high = task.energy.band
    rows = [
        [kind, *map(significant, (mean, least, most)), percent(mean / typical)]
        for kind, (least, mean, most) in task.energy.by_kind.items()
    ]
    foot = ["all", *map(significant, (typical, low, high)), ""]
    return Table(label, head, rows, 1, foot)


def _experts(task: TaskFacts) -> Table:
    rows = [
        [
            one.short,
            number(sum(one.tokens)),
            f"{max(one.tokens) * len(one.tokens) / max(1, sum(one.tokens)):.2f}",
            number(one.tokens.count(0)),
            "-" if one.flips is None else percent(one.flips, 2),
            " ".join(map(str, one.tokens)),
        ]
        for one in task.experts
    ]
    head = ["layer", "choices", "most / mean", "without tokens", "other than in float"]
    return Table(f"Tokens of the experts of {task.name}", [*head, "expert by expert"], rows)


def _points(task: TaskFacts) -> Table:
    rows = [
        [
            point.name,
            point.layer,
            str(point.bits),
            significant(point.maximum),
            significant(point.clip),
            percent(point.clipped, 3),
            "-" if point.decibels is None else decibels(point.decibels),
        ]
        for point in task.points
    ]
    head = ["point", "layer", "bits", "largest value", "range", "clipped", "alone, dB"]
    return Table(f"Quantised points of {task.name}", head, rows, 2)


def _layers(task: TaskFacts) -> Table:
    rows = [
        [
            layer.short,
            layer.name,
            layer.shape,
            "accelerator",
            significant(layer.macs / 1e6),
            percent(layer.macs / task.macs),
            " and ".join(map(str, layer.stored.bits)) or "-",
            number(layer.stored.size_bytes / 1e3),
            number(layer.weight_bytes / 1e3),
        ]
        for layer in task.layers
    ]
    head = ["layer", "name", "sizes", "runs on", "M MAC", "share", "bits of weights"]
    head += ["weights, kB", "weights read, kB"]
    foot = ["all", "", "", "", significant(task.macs / 1e6), "", ""]
    foot += [number(sum(layer.stored.size_bytes for layer in task.layers) / 1e3)]
    foot += [number(task.estimate.weight_bytes / 1e3)]
    return Table(f"Layers of {task.name}", head, rows, 4, foot)


def _host(parts: Sequence[FrontReport | HostReport]) -> Table:
    nodes = [node for part in parts for node in part.nodes]
    rows = [[node.name, node.operator, "host", node.reason] for node in nodes]
    return Table("Nodes on the host", ["node", "operator", "runs on", "why"], rows, 4)
