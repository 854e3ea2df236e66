"""Joint training of both tasks: python -m moesaic.models.train --preset nano --out FILE."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

from moesaic.models.config import PRESETS, preset
from moesaic.models.m3vit import M3ViT, initialise, save_checkpoint
from moesaic.models.metrics import class_iou, depth_rmse
from moesaic.models.scenes import CLASS_NAMES, HELDOUT_SEED, SceneBatch, make_batch, normalise

DEPTH_WEIGHT = 4.0
BALANCE_WEIGHT = 0.02
CLIP_NORM = 1.0


def progress_bar() -> Progress:
    """Return the progress display of all long steps here."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def draw_scenes(count: int, height: int, width: int, first_seed: int) -> SceneBatch:
    """Draw `count` scenes of consecutive seeds, with a progress bar."""
    parts: list[SceneBatch] = []
    with progress_bar() as progress:
        bar = progress.add_task("scenes", total=count, note="")
        for start in range(0, count, 64):
            size = min(64, count - start)
            seeds = range(first_seed + start, first_seed + start + size)
            parts.append(make_batch(seeds, height, width))
            progress.advance(bar, size)
    return SceneBatch(
        np.concatenate([part.rgb for part in parts]),
        np.concatenate([part.seg for part in parts]),
        np.concatenate([part.depth for part in parts]),
    )


def balance_loss(model: M3ViT) -> Tensor:
    """Return the mean over MoE layers of E * sum_e (share of e) * (mean gate of e); 1 is even."""
    terms = []
    for layer in model.moe_layers():
        assert layer.statistics is not None, "balance_loss needs a forward pass in training mode"
        share, gate = layer.statistics
        terms.append(len(layer.experts) * (share * gate).sum())
    return torch.stack(terms).mean() if terms else torch.zeros(())


def task_loss(output: Tensor, seg: Tensor, depth: Tensor, task: str) -> Tensor:
    """Return cross-entropy for 'seg' and smooth L1 (quadratic below 0.1) for 'depth'."""
    if task == "seg":
        return F.cross_entropy(output, seg)
    return DEPTH_WEIGHT * F.smooth_l1_loss(output, depth, beta=0.1)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 5 % of the steps, then half a cosine down to 1 % of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train(
    model: M3ViT,
    scenes: SceneBatch,
    *,
    steps: int,
    batch: int = 32,
    peak_rate: float = 2e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> None:
    """Train all tasks of a model in place on `scenes`, mirrored at random, with AdamW."""
    rng = np.random.default_rng(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98))
    model.train()
    order = np.empty(0, np.int64)
    with progress_bar() as progress:
        bar = progress.add_task("training", total=steps, note="")
        for step in range(steps):
            if len(order) < batch:
                order = np.concatenate([order, rng.permutation(len(scenes.rgb))])
            picks, order = order[:batch], order[batch:]
            flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
            image = torch.from_numpy(normalise(scenes.rgb[picks][..., flip]))
            seg = torch.from_numpy(scenes.seg[picks][..., flip].astype(np.int64))
            depth = torch.from_numpy(scenes.depth[picks][..., flip].copy())
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, peak_rate)
            optimiser.zero_grad(set_to_none=True)
            losses = {}
            for task in model.config.task_names:
                loss = task_loss(model(image, task), seg, depth, task)
                # One backward pass per task keeps only one graph in memory.
                (loss + BALANCE_WEIGHT * balance_loss(model)).backward()
                losses[task] = float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimiser.step()
            note = "  ".join(f"{task} {value:.3f}" for task, value in losses.items())
            progress.update(bar, advance=1, note=note)
            if step % 250 == 0 and not progress.console.is_terminal:
                print(f"step {step}/{steps}  {note}", flush=True)
    model.eval()


@torch.no_grad()
def predict(model: M3ViT, scenes: SceneBatch, task: str, batch: int = 16) -> np.ndarray:
    """Return the network's output for a task on all scenes: (N, channels, H, W) float32."""
    model.eval()
    parts = [
        model(torch.from_numpy(normalise(scenes.rgb[start : start + batch])), task).numpy()
        for start in range(0, len(scenes.rgb), batch)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def expert_shares(model: M3ViT, scenes: SceneBatch, task: str) -> list[list[float]]:
    """Return, for each MoE layer, the share of (token, slot) choices that each expert got."""
    shares: list[list[float]] = []
    model.train()  # the statistics are kept in training mode only; nothing else differs
    model(torch.from_numpy(normalise(scenes.rgb)), task)
    for layer in model.moe_layers():
        assert layer.statistics is not None
        shares.append([round(float(value), 4) for value in layer.statistics[0]])
    model.eval()
    return shares


def evaluate(model: M3ViT, scenes: SceneBatch) -> dict[str, object]:
    """Return mIoU, IoU per class, depth RMSE (encoded units) and expert shares on `scenes`."""
    iou = class_iou(predict(model, scenes, "seg").argmax(1), scenes.seg, len(CLASS_NAMES))
    return {
        "miou": round(float(np.nanmean(iou)), 4),
        "iou": {name: round(float(value), 4) for name, value in zip(CLASS_NAMES, iou, strict=True)},
        "depth_rmse": round(depth_rmse(predict(model, scenes, "depth"), scenes.depth), 5),
        "heldout_scenes": len(scenes.rgb),
        "expert_shares": {
            task: expert_shares(model, scenes, task) for task in model.config.task_names
        },
    }


def main() -> None:
    """Train a preset, write the checkpoint and, beside it, a JSON file of what it measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file (.pt)")
    parser.add_argument("--scenes", type=int, default=6000, help="training scenes")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--heldout", type=int, default=64, help="evaluation scenes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    config = preset(options.preset)
    torch.manual_seed(options.seed)
    model = M3ViT(config)
    initialise(model, options.seed)
    began = time.monotonic()
    scenes = draw_scenes(options.scenes, config.height, config.width, 0)
    train(model, scenes, steps=options.steps, batch=options.batch, seed=options.seed)
    heldout = draw_scenes(options.heldout, config.height, config.width, HELDOUT_SEED)
    report = evaluate(model, heldout)
    report["train_seconds"] = round(time.monotonic() - began)
    report["command"] = (
        f"python -m moesaic.models.train --preset {options.preset} --scenes {options.scenes} "
        f"--steps {options.steps} --batch {options.batch} --heldout {options.heldout} "
        f"--seed {options.seed} --out {options.out}"
    )
    report["date"] = datetime.date.today().isoformat()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, options.out)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
