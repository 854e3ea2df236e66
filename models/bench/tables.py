"""The tables that ``make bench`` prints."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from moesaic.models.bench.goals import Goal
from moesaic.models.bench.measure import Row
from moesaic.models.bench.published import BACKBONE_MACS, CLOCK_MHZ, PUBLISHED
from moesaic.models.config import preset

_NOTE = (
    "MHz of ours: by make timing, or assumed; no vendor tool has run on the design. GB/s: weights"
    " read in the mean; a ZCU102's DRAM has 19.2 at its peak. Power is not measured. Ours counts"
    " the task heads too."
)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def frames(rows: list[Row]) -> Table:
    """Cycles of whole frames against roofline and estimate."""
    table = _table(
        "frames: RTL in its DRAM",
        *("target", "model", "gates", "task", "exact", "cycles", "worst", "roofline", "util."),
        *("estimate", "error", "skipped", "imbalance", "s/frame"),
        left=5,
    )
    for row in rows:
        table.add_row(
            row["target"],
            row["model"].partition(",")[0],
            row["routing"],
            row["task"],
            "yes" if row["bit_exact"] else "NO",
            f"{row['cycles']:,}",
            f"{max(row['frame_cycles']):,}",
            f"{row['roofline_cycles']:,.0f}",
            f"{row['utilisation']:.3f}",
            f"{row['estimated_cycles']:,}",
            f"{row['estimated_cycles'] / row['cycles'] - 1:+.2%}",
            str(row["experts_skipped"]),
            f"{max(row['imbalance']):.1f}" if row["imbalance"] else "-",
            f"{row['simulation_seconds']:.1f}",
        )
    table.caption = (
        "trained gates are those of a trained model, other models have random weights; worst: of"
        " all frames; error: of the estimate; skipped: weight segments never fetched;"
        " imbalance: most tokens of an expert over the mean, worst layer; s/frame: simulating,"
        " after the build"
    )
    return table


def kinds(rows: list[Row]) -> Table:
    """Cycles by kind of layer, and the estimate's error."""
    names = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    table = _table(
        "cycles by kind of layer (error of the estimate)", "target", "gates", "task", *names, left=3
    )
    for row in rows:
        cells = []
        for kind in names:
            cycles = row["kinds"].get(kind)
            if cycles is None:
                cells.append("-")
                continue
            error = row["estimated_kinds"][kind] / cycles - 1
            cells.append(f"{cycles:,} ({error:+.1%})")
        table.add_row(row["target"], row["routing"], row["task"], *cells)
    return table


def array_use(rows: list[Row]) -> Table:
    """What the matrix unit did in the cycles of every kind of layer, mean of the frames."""
    reasons = ("token vector", "token router", "token load", "stall tile", "stall bank")
    table = _table(
        "what the array does, by kind of layer",
        *("target", "task", "layers", "cycles", "products", "padding", *reasons, "rest"),
        left=3,
    )
    for row in rows:
        for kind in row["kinds"]:
            layers = [layer for layer in row["layers"] if layer["kind"] == kind]
            cycles = sum(layer["cycles"] for layer in layers)
            products = sum(layer["array_cycles"] for layer in layers)

            def spent(state: str, layers: list[dict[str, Any]] = layers) -> float:
                return sum(layer["matrix"].get(state, 0) for layer in layers)

            parts = [products, spent("busy") - products, *(spent(reason) for reason in reasons)]
            parts.append(cycles - sum(parts))
            shares = [f"{part / cycles:.1%}" for part in parts]
            table.add_row(row["target"], row["task"], kind, f"{cycles:,.0f}", *shares)
    table.caption = (
        "products: MACs at full rate; padding: words streamed beyond that; token: waits for a"
        " unit's results; tile: for weights; bank: for the drain; rest: idle, or reads that collide"
    )
    return table


def memories(rows: list[Row]) -> Table:
    """How cycles depend on the DRAM."""
    table = _table(
        "sensitivity to the DRAM",
        *("target", "task", "latency", "bandwidth", "cycles", "change", "error of estimate"),
        left=2,
    )
    for row in rows:
        table.add_row(
            row["target"],
            row["task"],
            str(row["latency"]),
            f"{row['bandwidth']:.2f}",
            f"{row['cycles']:,}",
            f"{row['cycles'] / rows[0]['cycles'] - 1:+.1%}",
            f"{row['estimated_cycles'] / row['cycles'] - 1:+.2%}",
        )
    return table


def attention(rows: list[Row]) -> Table:
    """Operand loads per head against N^2/p + N."""
    config = preset("tiny")
    tokens = config.tokens
    table = _table(
        f"attention operands per head, {tokens} tokens",
        *("array width p", "words counted", "bytes per word", "vectors per product", "N²/p + N"),
        left=0,
    )
    for row in rows:
        p = row["array_width"]
        words_per_vector = math.ceil(config.dim // config.heads / p)
        # Q*K^T and P*V alike: words that stand or stream, in vectors of a head's dimensions.
        vectors = row["attention_words_per_head"] / (2 * words_per_vector)
        table.add_row(
            str(p),
            f"{row['attention_words_per_head']:,.0f}",
            str(p),
            f"{vectors:,.0f}",
            f"{tokens**2 / p + tokens:,.0f}",
        )
    table.caption = "counted in simulation; a started column tile counts whole: N * ceil(N/p) + N"
    return table


def resources(reports: dict[str, dict[str, Any]]) -> Table:
    """Totals of every target by synthesis."""
    names = list(dict.fromkeys(kind for report in reports.values() for kind in report["totals"]))
    table = _table("resources by yosys (share of the part)", "target", "part", *names, left=2)
    for target, report in reports.items():
        cells = []
        for name in names:
            total, share = report["totals"].get(name), report["share"].get(name)
            shown = "-" if total is None else f"{total:,.10g}"
            cells.append(shown if share is None else f"{shown} ({share:.0%})")
        table.add_row(target, report["part"], *cells)
    return table


def comparison(rows: list[Row], reports: dict[str, dict[str, Any]]) -> Table:
    """Published designs of the same model beside ours."""
    table = _table(
        "M3ViT-T, 129 tokens, one frame",
        *(
            "design",
            "precision",
            "cycles",
            "MHz",
            "GB/s",
            "ms",
            "MAC/cycle",
            "MAC/DSP/cycle",
            "DSP",
            "BRAM36",
        ),
        *("LUT", "W"),
        left=2,
    )
    for other in PUBLISHED:
        cycles = other.milliseconds * CLOCK_MHZ * 1e3
        rate = BACKBONE_MACS / cycles
        table.add_row(
            other.name,
            other.precision,
            f"{cycles:,.0f}",
            f"{CLOCK_MHZ}",
            "-",
            f"{other.milliseconds:.2f}",
            f"{rate:,.0f}",
            f"{rate / other.dsp:.3f}" if other.dsp else "-",
            f"{other.dsp:,}" if other.dsp else "-",
            str(other.bram36 or "-"),
            f"{other.lut_k} K" if other.lut_k else "-",
            f"{other.watts:.2f}",
        )
    table.add_section()
    for row in rows:
        rate = row["macs"] / row["cycles"]
        report = reports.get(row["target"], {}).get("totals", {})
        table.add_row(
            f"Moesaic {row['target']}, {row['task']}",
            "W8A8, residual 16 bit",
            f"{row['cycles']:,}",
            f"{row['clock_mhz']:g} {row['clock_source']}",
            f"{row['weight_read_bytes'] / row['cycles'] * row['clock_mhz'] / 1e3:.1f}",
            f"{row['cycles'] / row['clock_mhz'] / 1e3:.2f}",
            f"{rate:,.0f}",
            f"{rate / report['dsp']:.3f}" if report else "-",
            f"{report['dsp']:,.0f}" if report else "-",
            f"{report['bram36']:,.10g}" if report else "-",
            f"{report['lut'] / 1e3:.0f} K" if report else "-",
            "-",
        )
    table.caption = _NOTE
    return table


def goals(judged: list[Goal]) -> Table:
    """Limits and what was measured."""
    table = _table("goals", "what", "measured", "limit", "met")
    for goal in judged:
        small = goal.limit != 0 and goal.limit < 1
        shown = "{:.4f}" if small else "{:,.10g}"
        table.add_row(
            goal.what,
            shown.format(goal.measured),
            shown.format(goal.limit),
            "yes" if goal.met else "NO",
        )
    return table
