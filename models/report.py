"""Figures and tables of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moesaic.models.metrics import depth_rmse, mean_iou, sqnr_db

VARIANTS = ("float", "integer", "rtl")


@dataclass(frozen=True)
class Results:
    """What the demo's commands gave.

    ``heldout``: image, seg, depth. ``outputs[task][variant]``: variant float, integer (all
    scenes) or rtl (the first ones). ``statistics[task]`` is ``stats.json``; ``verdict`` the
    output of ``verify``, ``routing_flips[task]`` the share of tokens whose chosen experts differ
    from the float model's, by MoE layer, on the calibration samples.
    """

    heldout: dict[str, np.ndarray]
    outputs: dict[str, dict[str, np.ndarray]]
    statistics: dict[str, Any]
    verdict: dict[str, Any]
    routing_flips: dict[str, dict[str, float]]


def _quality(results: Results, task: str, variant: str, count: int) -> float:
    output = results.outputs[task][variant][:count]
    if task == "seg":
        return mean_iou(output.argmax(1), results.heldout["seg"][:count])
    return depth_rmse(output[:, 0], results.heldout["depth"][:count].reshape(output[:, 0].shape))


def summarise(results: Results) -> dict[str, Any]:
    """All figures of the tables, computed from this run's outputs."""
    tasks: dict[str, Any] = {}
    for task, outputs in results.outputs.items():
        stats = results.statistics[task]
        simulated, everything = len(outputs["rtl"]), len(outputs["float"])
        tasks[task] = {
            "cycles": float(np.mean(stats["cycles"])),
            "roofline_cycles": stats["roofline_cycles"],
            "utilisation": stats["utilisation"],
            "macs": stats["macs"],
            "dram_read_bytes": stats["dram_read_bytes"],
            "dram_write_bytes": stats["dram_write_bytes"],
            "busy": {name: unit["busy_share"] for name, unit in stats["units"].items()},
            "sqnr_db": sqnr_db(outputs["float"], outputs["integer"]),
            "routing_flips": results.routing_flips[task],
            "quality": "mIoU" if task == "seg" else "depth RMSE",
            "all_scenes": {
                "scenes": everything,
                **{v: _quality(results, task, v, everything) for v in ("float", "integer")},
            },
            "rtl_scenes": {
                "scenes": simulated,
                **{v: _quality(results, task, v, simulated) for v in VARIANTS},
            },
            "rtl_equals_integer": bool(
                np.array_equal(outputs["rtl"], outputs["integer"][:simulated])
            ),
            "innovations": stats["innovations"],
        }
    exact = results.verdict["bit_exact"] and all(t["rtl_equals_integer"] for t in tasks.values())
    return {"bit_exact": exact, "verify": results.verdict["tasks"], "tasks": tasks}


def _innovation_rows(shown: dict[str, Any]) -> list[tuple[str, str]]:
    attention, softmax = shown["attention_reordering"], shown["single_pass_softmax"]
    unit, experts = shown["unified_unit"], shown["expert_reordering"]
    active = shown["activation_tables"]
    return [
        (
            "attention reordering",
            f"{attention['operand_words_per_head']:.0f} operand words a head, formula"
            f" {attention['by_formula']:.0f} at p = {attention['parallelism']}",
        ),
        (
            "single-pass softmax",
            f"{softmax['score_reads_for_reduction']} score reads for reduction"
            f" ({softmax['scores']} scores)",
        ),
        ("activation tables", f"{active['lookups']} lookups, {active['table_bits']} bits, GELU's"
            f" error {active['maximum_error']:.1e}, {active['multipliers_per_lane']}"
            " multipliers a lane"),
        (
            "unified unit",
            f"busy {unit['busy_share']:.0%}; {unit['linear_words']} linear and"
            f" {unit['attention_words']} attention words on one array",
        ),
        (
            "expert reordering",
            f"{experts['fetched']} segments fetched once, {experts['skipped']} skipped;"
            f" {experts['weight_read_bytes']} of {experts['weight_image_bytes']} image bytes read,"
            f" {experts['weight_unused_bytes']} unused",
        ),
    ]  # fmt: skip


def print_tables(console: Console, summary: dict[str, Any]) -> None:
    """Print the run's figures, one column per task, and the five design ideas' counters."""
    table = Table(title="measured in this run")
    table.add_column("")
    for task in summary["tasks"]:
        table.add_column(task, justify="right")

    def row(title: str, show: Any) -> None:
        table.add_row(title, *(show(task) for task in summary["tasks"].values()))

    row("RTL equals integer reference", lambda t: "yes" if t["rtl_equals_integer"] else "NO")
    row("cycles a frame", lambda t: f"{t['cycles']:.0f}")
    row("roofline cycles", lambda t: f"{t['roofline_cycles']:.0f}")
    row("utilisation", lambda t: f"{t['utilisation']:.3f}")
    row("DRAM bytes read", lambda t: f"{t['dram_read_bytes']:.0f}")
    row("DRAM bytes written", lambda t: f"{t['dram_write_bytes']:.0f}")
    for unit in next(iter(summary["tasks"].values()))["busy"]:
        row(f"busy: {unit}", lambda t, unit=unit: f"{t['busy'][unit]:.1%}")
    row("SQNR of integers, dB", lambda t: f"{t['sqnr_db']:.1f}")
    row(
        "tokens with other experts, by layer",
        lambda t: ", ".join(f"{share:.1%}" for share in t["routing_flips"].values()),
    )
    row("quality", lambda t: t["quality"])
    for group, title in (("all_scenes", "all"), ("rtl_scenes", "simulated")):
        for variant in VARIANTS:
            if all(variant in t[group] for t in summary["tasks"].values()):
                row(
                    f"{variant}, {title} scenes",
                    lambda t, g=group, v=variant: f"{t[g][v]:.4f} ({t[g]['scenes']})",
                )
    console.print(table)
    for task, figures in summary["tasks"].items():
        ideas = Table(title=f"design ideas, {task}, last frame", show_header=False)
        for name, text in _innovation_rows(figures["innovations"]):
            ideas.add_row(name, text)
        console.print(ideas)
