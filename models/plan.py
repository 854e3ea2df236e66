"""What a training run does, and the learning rate along it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training run does.

    Attributes
    ----------
    steps
        Length of the run; the learning rate follows it.
    seconds
        Length of the run in seconds of training instead of `steps`.
    batch
        Images of a step at full resolution.
    peak_rate, weight_decay
        Of AdamW; see `learning_rate`. Biases and norms do not decay.
    seed
        Decides order and mirroring of the scenes.
    coarse_share
        Share of the run, from its start, in which images have half the resolution. A step takes
        four times as many then: as many tokens, more scenes.
    joint_share
        Share of the run, from its start, in which all tasks use the first task's gates, so that
        the backbone runs once for all of them. Then each task gets a copy to train as its own.
    """

    steps: int = 6000
    seconds: float | None = None
    batch: int = 32
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0
    coarse_share: float = 0.0
    joint_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("coarse_share", "joint_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)!r}")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds must be positive, not {self.seconds!r}")


def learning_rate(done: float, total: float, peak: float) -> float:
    """Linear warm-up over 5 % of the run, then half a cosine down to 1 % of the peak.

    `done` and `total` are steps or seconds.
    """
    warm = max(1, total // 20)
    if done < warm:
        return peak * min(done + 1, warm) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm) / (total - warm))))
