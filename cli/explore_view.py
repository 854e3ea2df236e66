"""Tables and picture of `moesaic explore`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from moesaic.spec.clocks import Clock
from moesaic.spec.memories import ram_kind
from moesaic.spec.memory import sustained_bytes
from moesaic.spec.parts import Part

if TYPE_CHECKING:
    from moesaic.compiler.explore.goal import Goal
    from moesaic.compiler.explore.judge import Verdict

MOST_ROWS = 20
"""Of the Pareto set in the table; the report has all."""


def explore_report(
    found: list[Verdict],
    chosen: Verdict,
    cycles: dict[str, int],
    goal: Goal,
    part_name: str,
    part: Part,
    clock: Clock,
    bandwidth: float,
) -> dict[str, Any]:
    """All of a search, for JSON, tables and picture."""
    from moesaic.compiler.explore.goal import pareto

    def entry(verdict: Verdict) -> dict[str, Any]:
        return _entry(verdict, clock, bandwidth)

    return {
        "part": part_name,
        "family": part.family,
        "capacity": part.capacity,
        "objective": goal.objective,
        **clock.to_dict(),
        "chosen": {**entry(chosen), "scheduled_cycles": cycles},
        "pareto": [entry(verdict) for verdict in pareto(found)],
        "others": [entry(verdict) for verdict in found if verdict.cycles],
        "refused": sum(not verdict.cycles for verdict in found),
    }


def _entry(verdict: Verdict, clock: Clock, bandwidth: float) -> dict[str, Any]:
    cycles = max(verdict.cycles.values())
    return {
        "arch": verdict.arch.to_dict(),
        "cycles": verdict.cycles,
        "ms": clock.milliseconds(cycles),
        "dram_given_gb_s": clock.gigabytes_per_second(sustained_bytes(verdict.arch, bandwidth)),
        "frames_per_s": clock.mhz * 1e6 * len(verdict.cycles) / sum(verdict.cycles.values()),
        "area": verdict.area,
        "resources": verdict.resources,
        "share": verdict.share,
    }


def explore_tables(report: dict[str, Any]) -> Iterator[Table]:
    """The Pareto set, and the target that was chosen."""
    clock = Clock(report["clock_mhz"], report["clock_source"])
    table = Table(title=f"{report['part']}: fastest for their area, at {clock}")
    table.add_column("array")
    kinds = ("lut", "dsp", ram_kind(report["family"]))
    for column in ("lanes", "ports", "KiB", "cycles", "ms", "GB/s", *kinds):
        table.add_column(column, justify="right")
    entries = report["pareto"]
    # Both ends, and as many between as there is room for.
    step = max(1, -(-len(entries) // MOST_ROWS))
    shown = entries[::step] + ([entries[-1]] if (len(entries) - 1) % step else [])
    for entry in shown:
        arch, share = entry["arch"], entry["share"]
        mine = entry["arch"] == report["chosen"]["arch"]
        table.add_row(
            f"{arch['depth']}x{arch['width']}{'p' if arch['packed'] else ''}",
            f"{arch['lanes']}",
            f"{arch['weight_ports']}x{8 * arch['weight_port_bytes']}",
            "+".join(
                f"{arch[f'{size}_bytes'] >> 10}{'u' if arch[f'ultra_{name}'] else ''}"
                for size, name in (("ring", "ring"), ("activation", "activations"))
            ),
            f"{max(entry['cycles'].values()):,}",
            f"{entry['ms']:.3g}",
            f"{entry['dram_given_gb_s']:.1f}",
            *(f"{share[kind]:.0%}" for kind in kinds),
            style="bold" if mine else None,
        )
    table.caption = (
        "p: two products in a DSP. KiB: ring and activations, u in UltraRAM. GB/s: what the cycles"
        " assume of DRAM. Resources by model, not placed"
    )
    yield table
    chosen = report["chosen"]
    table = Table(title=f"chosen for {report['objective']}: {chosen['arch']['name']}")
    for column in ("task", "cycles of the search", "with compile's schedule", "ms", "frames/s"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, cycles in chosen["cycles"].items():
        scheduled = chosen["scheduled_cycles"][task]
        table.add_row(
            task,
            f"{cycles:,}",
            f"{scheduled:,}",
            f"{clock.milliseconds(scheduled):.3g}",
            f"{clock.mhz * 1e6 / scheduled:,.0f}",
        )
    counted = chosen["resources"]
    ram = kinds[-1]  # comes in halves
    table.caption = ", ".join(
        f"{counted[kind] if kind == ram else round(counted[kind]):,.10g}"
        f" of {report['capacity'][kind]:,} {kind}"
        for kind in (*kinds, *(["uram"] if counted.get("uram") else []))
    )
    yield table


def draw(report: dict[str, Any]) -> bytes:
    """A .png: every target that fits, the Pareto set, and the one that was chosen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")

    def places(entries: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        return [100 * e["area"] for e in entries], [max(e["cycles"].values()) for e in entries]

    axis.plot(*places(report["others"]), "o", color="0.75", markersize=3, label="fit the part")
    axis.step(*places(report["pareto"][::-1]), "o-", where="post", markersize=4, label="Pareto set")
    axis.plot(*places([report["chosen"]]), "r*", markersize=12, label="chosen")
    axis.set(
        title=f"{report['part']}, objective {report['objective']}",
        xlabel="area: largest share of the part, %",
        ylabel="cycles of a frame",
        yscale="log",
    )
    axis.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    pyplot.close(figure)
    return image.getvalue()
