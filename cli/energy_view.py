"""Energy of a frame as a line: always said to be a model's, with its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 3
"""Of the kinds, the largest."""


def energy_line(figures: Mapping[str, Any] | None) -> str:
    """``Energy.to_dict`` as a line; ``None``, where there are no figures, too."""
    if figures is None:
        return "no energy: no power figures of this family of parts, or of its DRAM, are public"
    parts = sorted(figures["mj_of"].items(), key=lambda part: -part[1])[:_SHOWN]
    shares = ", ".join(f"{kind} {value / figures['mj']:.0%}" for kind, value in parts)
    return (
        f"{figures['mj']:.3g} mJ a frame by a model, nothing was measured: {figures['mj_low']:.3g}"
        f" to {figures['mj_high']:.3g} as its figures spread; {figures['watts']:.2g} W in the mean"
        f" without the processing system ({shares})"
    )
