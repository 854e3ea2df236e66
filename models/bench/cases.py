"""What is measured: models, targets, routings, memories."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Model:
    """A pair of ONNX models, one per task.

    ``routing`` steers the gates of random weights (see ``models/steering.py``); ``None`` leaves
    them as they are.
    """

    preset: str
    random_seed: int | None = None
    routing: str | None = None

    @property
    def key(self) -> str:
        """Folder name."""
        return "-".join(part for part in (self.preset, self.routing) if part)

    @property
    def label(self) -> str:
        """For tables."""
        size = {"nano": "M3ViT nano", "tiny": "M3ViT-T"}[self.preset]
        return f"{size}, {'trained' if self.random_seed is None else 'random weights'}"

    @property
    def gates(self) -> str:
        """How it routes, for tables."""
        return "trained" if self.random_seed is None else self.routing or "as drawn"


@dataclass(frozen=True)
class Case:
    """One model on one target with one memory.

    ``samples`` frames of every task run in turns, or of ``task`` alone; with ``switch`` the changes
    between tasks are timed, too. Latency in cycles, bandwidth as a share of the peak.
    """

    model: Model
    target: str
    samples: int = 1
    task: str | None = None
    latency: int = 60
    bandwidth: float = 0.9
    switch: bool = False


NANO = Model("nano")
TINY = Model("tiny", random_seed=1, routing="balanced")
"""The headline model: every expert has tokens, so all weights are read; nothing is skipped."""

FAMILIES = {
    "nano": "xcup",
    "zcu102-lite": "xcup",
    "zcu102": "xcup",
    "zcu102-base": "xcup",
    "zcu104": "xcup",
    "u280": "xcup",
    "kv260": "xcup",
    "pynq-z2": "xc7",
    "ecp5-85": "ecp5",
}
"""Of the targets' parts: what resources are counted for."""

HEADLINES = (
    Case(NANO, "nano", samples=2, switch=True),
    Case(TINY, "zcu102-lite", samples=2, switch=True),
    Case(TINY, "zcu104", samples=2, switch=True),
    Case(TINY, "zcu102", samples=2, switch=True),
)
SMALL = tuple(
    Case(NANO, target)
    for target in (
        "zcu102-lite", "zcu102", "zcu102-base", "zcu104", "u280", "kv260", "pynq-z2", "ecp5-85",
    )
)  # fmt: skip
"""A model far too small for the array: utilisation is poor, estimates must hold all the same. The
last three targets hold no larger one."""
ROUTINGS = tuple(Case(replace(TINY, routing=routing), "zcu102") for routing in (None, "one", "two"))
_DEPTH = Case(TINY, "zcu102", task="depth")
MEMORIES = (
    *(replace(_DEPTH, latency=latency) for latency in (30, 120, 240)),
    replace(_DEPTH, bandwidth=0.45),
)
"""Beside the headline's latency 60 and bandwidth 0.9."""

BOARD = Case(TINY, "zcu102", bandwidth=0.75)
"""The DDR4-2400 of a ZCU102 at three quarters of its peak, 14.4 GB/s, as a share of what the weight
ports take at about 300 MHz: with 0.9 they take more than such a memory usually gives."""

NARROW = {
    "name": "array-16",
    "depth": 16,
    "width": 16,
    "lanes": 16,
    "accumulator_rows": 2048,
    "activation_bytes": 256 << 10,
    "residual_bytes": 64 << 10,
    "weight_ports": 2,
    "ring_read_bytes": 32,
    "ring_bytes": 64 << 10,
    "max_tokens": 256,
    "max_experts": 16,
}
"""Edge-MoE's array with memory for the paper's model: the third width of the attention property."""
ATTENTION = Case(TINY, "array-16", task="depth")
