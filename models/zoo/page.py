"""The zoo's rows for people: counts by family, and a page with every row."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from moesaic.models.zoo.export import CALIBRATION, HELD_OUT
from moesaic.models.zoo.trial import STATES, TWIN_TARGET, WITHOUT, Row

INTRODUCTION = f"""# Architectures that were tried

Made by `make zoo ZOO_ARGS='--rtl --page docs/zoo.md'`, which takes hours; a rerun tries what has
changed. With `--keep` rows stay that were made with earlier sources: cycles, and presets that hold
a model, may be others today. The page may have such rows.

Each is built by its library, with random weights (also where it begins with constants, such as
1e-5 for layer scales) and its own sizes, two blocks deep where that can be said, exported by torch
(`dynamo`, its newer way, or `trace`), and compiled for a target with room for everything. *Whole*:
all of it is on the accelerator. *Partitioned*: the host runs the rest, in ONNX Runtime.
*Refused*: a sentence says why. *Wrong*: recognised as something else, which is found before it is
compiled, or another result on the RTL. *Crash*: a traceback.

SQNR is against float, with {CALIBRATION} random samples to calibrate on and {HELD_OUT} others to
measure on, without {" and ".join(WITHOUT)}, which take most of the time. Random weights
say what is recognised and computed, nothing of what eight bits cost trained ones.

Multiply-accumulates, share and cycles are those of the whole architecture, by its shapes and the
cost model: the graph with its last block as often as the architecture has it, on each preset that
holds it. Where blocks differ, or stages do, multiply-accumulates are those of what was built.

*RTL*: a twin of the same structure, two blocks of 64 channels and 9 patches (mixtures: the model
itself), runs on `{TWIN_TARGET}` in simulation. *exact*: each code of a frame equals the integer
reference. Else the column says why there is none. What is empty was not measured, or no preset
holds it.
"""


def counts(rows: list[Row]) -> Table:
    """How many of each family there are in each state."""
    table = Table(title="architectures with random weights, two blocks deep")
    table.add_column("family")
    for state in STATES:
        table.add_column(state, justify="right")
    for family in dict.fromkeys(row.family for row in rows):
        found = Counter(row.state for row in rows if row.family == family)
        table.add_row(family, *(str(found[state] or "") for state in STATES))
    table.add_section()
    total = Counter(row.state for row in rows)
    table.add_row(f"all {len(rows)}", *(str(total[state] or "") for state in STATES))
    return table


def _share(row: Row) -> str:
    macs = row.full_macs or row.macs
    if macs is None:
        return ""
    if row.host_macs is None:
        return "not known"
    share = macs / (macs + row.host_macs)
    return "100 %" if row.state == "whole" else f"{100 * share:.1f} %"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _cells(row: Row) -> list[str]:
    macs = row.full_macs or row.macs
    return [
        f"`{row.name}`",
        row.source,
        row.state,
        row.form,
        str(row.opset or ""),
        str(row.tokens or ""),
        str(row.blocks or ""),
        "" if macs is None else f"{macs / 1e6:,.0f}",
        _share(row),
        "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
        ", ".join(f"{target} {cycles:,}" for target, cycles in row.cycles.items()),
        _cell(row.rtl),
        _cell(row.why),
    ]


def page(rows: list[Row]) -> str:
    """Markdown: counts, then a row for each architecture."""
    families = list(dict.fromkeys(row.family for row in rows))
    lines = [INTRODUCTION]
    lines += [f"| family | {' | '.join(STATES)} | all |", "|---" * (len(STATES) + 2) + "|"]
    for family in [*families, "all"]:
        found = Counter(row.state for row in rows if family in (row.family, "all"))
        numbers = [str(found[state]) for state in STATES]
        lines.append(f"| {' | '.join([family, *numbers, str(found.total())])} |")
    exact = sum(row.rtl == "exact" for row in rows)
    if exact:
        lines += ["", f"{exact} twins are exact on the RTL."]
    for family in families:
        lines += ["", f"## {family[0].upper()}{family[1:]}", ""]
        lines += [
            "| architecture | from | | form | opset | tokens | blocks | M MAC | accelerator |"
            " SQNR, dB | cycles a frame | RTL | why |",
            "|---" * 13 + "|",
        ]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows if row.family == family]
    return "\n".join([*lines, ""])
