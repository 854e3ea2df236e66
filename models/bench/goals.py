"""What the figures are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesaic.models.bench.measure import Row

MOST_CYCLES = {
    "zcu102": {"seg": 345_000, "depth": 345_000},
    "zcu104": {"seg": 515_000, "depth": 495_000},
    "zcu102-lite": {"seg": 900_000, "depth": 900_000},
}
LEAST_MHZ = {
    **dict.fromkeys(("nano", "zcu102-lite", "zcu102", "zcu102-base", "zcu104", "kv260"), 300),
    "u280": 265,
}
"""Of targets whose delays there is a model of."""
MOST_SWITCH_CYCLES = 200
LEAST_UTILISATION = {"zcu102": 0.80, "zcu104": 0.80, "zcu102-lite": 0.85}
MOST_RESOURCES = {
    "zcu102": {"dsp": 2_400, "bram36": 880, "lut": 240_000},
    "zcu104": {"dsp": 1_300, "bram36": 280, "uram": 64, "lut": 190_000},
    "u280": {"dsp": 4_800, "bram36": 600, "uram": 240, "lut": 500_000},
}
"""Inside the XCZU9EG, the XCZU7EV and the XCU280, with room for a shell."""
ESTIMATE_HEADLINE, ESTIMATE_TOTAL, ESTIMATE_KIND = 0.005, 0.05, 0.10
"""Largest relative error of the cycles of a frame, of the headlines and of all, and of the layers
of a kind together."""


@dataclass(frozen=True)
class Goal:
    """One comparison of a measured value with its limit."""

    what: str
    measured: float
    limit: float
    met: bool


def at_most(what: str, measured: float, limit: float) -> Goal:
    return Goal(what, measured, limit, measured <= limit)


def at_least(what: str, measured: float, limit: float) -> Goal:
    return Goal(what, measured, limit, measured >= limit)


def judge(
    headlines: list[Row], others: list[Row], resources: dict[str, dict[str, Any]]
) -> list[Goal]:
    """Every goal that the measured rows have.

    Parameters
    ----------
    headlines
        Rows that cycles and utilisation are held to.
    others
        Rows that must be bit-exact and well estimated.
    resources
        Target to the resources of its part, as ``moesaic.hw.resources`` reports them.
    """
    goals = []
    rows = [*headlines, *others]
    wrong = sum(not row["bit_exact"] for row in rows)
    goals.append(at_most(f"runs that are not bit-exact, of {len(rows)}", wrong, 0))
    for row in headlines:
        name = f"{row['target']} {row['task']}"
        if row["target"] in MOST_CYCLES:
            limit = MOST_CYCLES[row["target"]][row["task"]]
            goals.append(at_most(f"{name}: cycles, worst frame", max(row["frame_cycles"]), limit))
        if row["target"] in LEAST_UTILISATION:
            least = LEAST_UTILISATION[row["target"]]
            goals.append(at_least(f"{name}: utilisation", row["utilisation"], least))
        if row["switch_cycles"] is not None:
            what = f"{name}: cycles to another task's first weights"
            goals.append(at_most(what, row["switch_cycles"], MOST_SWITCH_CYCLES))

    def worst(of: list[Row]) -> float:
        return max(abs(row["estimated_cycles"] / row["cycles"] - 1) for row in of)

    what = "estimate, worst error of a"
    goals.append(at_most(f"{what} headline's frame", worst(headlines), ESTIMATE_HEADLINE))
    goals.append(at_most(f"{what} frame", worst(rows), ESTIMATE_TOTAL))
    kinds = max(
        abs(row["estimated_kinds"][kind] / cycles - 1)
        for row in rows
        for kind, cycles in row["kinds"].items()
    )
    goals.append(at_most(f"{what} kind of layer", kinds, ESTIMATE_KIND))
    clocks: dict[str, float] = {}
    for row in rows:
        found = row["clock_mhz"] if row["clock_source"] == "by make timing" else 0.0
        clocks[row["target"]] = min(found, clocks.get(row["target"], found))
    goals += [
        at_least(f"{target}: MHz, by make timing", clocks[target], least)
        for target, least in LEAST_MHZ.items()
        if target in clocks
    ]
    goals += [
        at_most(f"{target}: {kind}", resources[target]["totals"][kind], limit)
        for target, limits in MOST_RESOURCES.items()
        if target in resources
        for kind, limit in limits.items()
    ]
    for target, report in resources.items():
        # Of what a part has none of there is no share.
        if share := [one for one in report.get("share", {}).values() if one is not None]:
            goals.append(at_most(f"{target}: share of its part", max(share), 1.0))
    return goals
