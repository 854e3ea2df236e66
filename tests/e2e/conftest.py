"""The command line as a user runs it, and models to give it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import M3ViT, random_model


@dataclass(frozen=True)
class Done:
    """Outcome of one command line."""

    code: int
    out: str
    err: str


def moesaic(*arguments: str | Path) -> Done:
    """Run the ``moesaic`` command as a user would."""
    command = [sys.executable, "-m", "moesaic.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def make_models(
    folder: Path,
    config: M3ViTConfig,
    seed: int,
    samples: int = 4,
    export: Callable[[M3ViT, str, Path], object] = export_onnx,
) -> list[str]:
    """Export a random model; returns ``TASK=FILE`` arguments; ``samples.npz`` lies beside."""
    model = random_model(config, seed)
    arguments = []
    for task in config.task_names:
        path = folder / f"{task}.onnx"
        export(model, task, path)
        arguments.append(f"{task}={path}")
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(samples, 3, config.height, config.width)).astype(np.float32)
    np.savez(folder / "samples.npz", image=images)
    return arguments


SMALL = M3ViTConfig(
    height=32, width=32, patch=16, dim=40, depth=2, heads=2, experts=4, expert_hidden=24,
    mlp_ratio=2.0, tasks=(("seg", 3), ("depth", 1)),
)  # fmt: skip
