"""Published accelerators of the same model on the same board, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_MHZ = 300
"""Of all of them."""


@dataclass(frozen=True)
class Published:
    """One design on a ZCU102 at :data:`CLOCK_MHZ`, as its authors report it.

    ``dsp``, ``bram36`` and ``lut_k`` (thousands) are ``None`` where they are not reported here.
    """

    name: str
    precision: str
    milliseconds: float
    dsp: int | None
    bram36: int | None
    lut_k: int | None
    watts: float


PUBLISHED = (
    Published("Edge-MoE", "W16A32", 34.64, None, None, None, 14.54),
    Published("UbiMoE", "W16A32", 25.76, 1850, 458, 123, 11.50),
    Published("CoQMoE", "W8A8, attention 4 bit", 6.47, 1754, 383, 156, 9.83),
)
BACKBONE_MACS = 782_700_000
"""Multiply-accumulates of M3ViT-T with 129 tokens, without task heads."""
