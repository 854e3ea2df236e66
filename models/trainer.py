"""The training loop: joint steps of all tasks under a budget, with a state that can go on."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moesaic.models.losses import BALANCE_WEIGHT, balance_loss, task_loss
from moesaic.models.m3vit import M3ViT
from moesaic.models.plan import Plan, learning_rate
from moesaic.models.scenes import SceneBatch, normalise

CLIP_NORM = 1.0
HISTORY_STEPS = 50
"""Steps over which the losses of one entry of `Trainer.history` are averaged."""

STALL = 10
"""A step counts for at most as many times its processor time: a process that somebody has
suspended does not train, and its budget must not run out meanwhile."""

Losses = dict[str, float]


class Trainer:
    """Trains all tasks of a model in place on `scenes`, mirrored at random, with AdamW.

    Attributes
    ----------
    step
        Steps taken.
    seconds
        Time spent in them, over all resumptions, without times of suspension.
    history
        One entry for every `HISTORY_STEPS` steps: {'step', 'seconds', 'height', and the mean
        loss of each task}.

    Raises
    ------
    ValueError
        The model's grid has no half, which a coarse share needs.
    """

    def __init__(self, model: M3ViT, scenes: SceneBatch, plan: Plan) -> None:
        if plan.coarse_share and any(side % 2 for side in model.config.grid):
            raise ValueError(
                f"coarse_share must be 0 for a grid of {model.config.grid} patches, "
                f"whose sides are not even, not {plan.coarse_share!r}"
            )
        self.model = model
        self.scenes = scenes
        self.plan = plan
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self._recent: list[Losses] = []
        self._joint = plan.joint_share > 0
        self._order = np.empty(0, np.int64)
        self._rng = np.random.default_rng(plan.seed)
        groups = [
            {
                "params": [p for p in model.parameters() if p.ndim > 1],
                "weight_decay": plan.weight_decay,
            },
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # fused: one pass over the memory, which is what a step of a large model waits for.
        self._optimiser = torch.optim.AdamW(
            groups, lr=plan.peak_rate, betas=(0.9, 0.98), fused=True
        )

    @property
    def length(self) -> float:
        """Steps of the whole run, or seconds where the plan has those."""
        return self.plan.steps if self.plan.seconds is None else self.plan.seconds

    @property
    def done(self) -> float:
        """What of `length` is done."""
        return self.step if self.plan.seconds is None else self.seconds

    @property
    def progress(self) -> float:
        """Share of the run that is done, in 0..1."""
        return min(self.done / self.length, 1.0)

    def run(self, each_step: Callable[[Losses], bool] | None = None) -> bool:
        """Train to the end of the plan.

        `each_step` gets the losses of every step and says whether to go on. Returns whether the
        plan is done; the model is in evaluation mode then.

        Raises
        ------
        ValueError
            The training diverged.
        """
        self.model.train()
        while self.progress < 1:
            began, began_cpu = time.monotonic(), time.process_time()
            losses = self._take_step()
            passed, worked = time.monotonic() - began, time.process_time() - began_cpu
            self.seconds += min(passed, STALL * worked)
            self._record(losses)
            if each_step is not None and not each_step(losses):
                break
        self.model.eval()
        finished = self.progress >= 1
        if finished and self._joint:  # the other tasks' gates have not been trained at all
            self._part_gates()
        return finished

    def _record(self, losses: Losses) -> None:
        self._recent.append(losses)
        if len(self._recent) == HISTORY_STEPS:
            means = {
                task: round(sum(entry[task] for entry in self._recent) / HISTORY_STEPS, 4)
                for task in losses
            }
            height = self.model.config.height // (1 + self._coarse)
            entry = {"step": self.step, "seconds": round(self.seconds), "height": height}
            self.history.append({**entry, **means})
            self._recent = []

    @property
    def _coarse(self) -> bool:
        return self.progress < self.plan.coarse_share

    def _take_step(self) -> Losses:
        image, seg, depth = self._draw()
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.done, self.length, self.plan.peak_rate)
        if self._joint and self.progress >= self.plan.joint_share:
            self._part_gates()
        self._optimiser.zero_grad(set_to_none=True)
        losses = self._backward(image, seg, depth)
        if not all(math.isfinite(value) for value in losses.values()):
            raise ValueError(
                f"the losses of step {self.step} must be finite, not {losses}: "
                "train with a lower peak rate"
            )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self._optimiser.step()
        self.step += 1
        return losses

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, classes and depth of the next batch."""
        size = self.plan.batch * (4 if self._coarse else 1)
        while len(self._order) < size:
            more = self._rng.permutation(len(self.scenes.rgb))
            self._order = np.concatenate([self._order, more])
        picks, self._order = self._order[:size], self._order[size:]
        flip = slice(None, None, -1 if self._rng.random() < 0.5 else 1)
        image = torch.from_numpy(normalise(self.scenes.rgb[picks][..., flip]))
        seg = torch.from_numpy(self.scenes.seg[picks][..., flip].astype(np.int64))
        depth = torch.from_numpy(self.scenes.depth[picks][..., flip].copy())
        if self._coarse:
            # Labels have no mean: both are taken from the same pixel of four.
            image = F.avg_pool2d(image, 2)
            seg, depth = seg[..., ::2, ::2], depth[..., ::2, ::2]
        return image, seg, depth

    def _backward(self, image: Tensor, seg: Tensor, depth: Tensor) -> Losses:
        """Add up the gradients of all tasks and return their losses."""
        tasks = self.model.config.task_names
        grid = self.model.grid_of(image)
        losses = {}
        shared = self.model.shared(image)
        if self._joint:
            features = self.model.gated(shared, tasks[0])
            total = len(tasks) * BALANCE_WEIGHT * balance_loss(self.model)
            for task in tasks:
                loss = task_loss(self.model.heads[task](features, grid), seg, depth, task)
                losses[task] = float(loss.detach())
                total = total + loss
            total.backward()
            return losses
        # One backward pass per task keeps only one graph in memory; what is shared gets the
        # sum of their gradients in one more.
        cut = shared.detach().requires_grad_()
        for task in tasks:
            output = self.model.heads[task](self.model.gated(cut, task), grid)
            loss = task_loss(output, seg, depth, task)
            (loss + BALANCE_WEIGHT * balance_loss(self.model)).backward()
            losses[task] = float(loss.detach())
        shared.backward(cut.grad)
        return losses

    @torch.no_grad()
    def _part_gates(self) -> None:
        """Give every task its own copy of the gates that all have used."""
        first, *others = self.model.config.task_names
        for layer in self.model.moe_layers():
            for task in others:
                layer.gates[task].load_state_dict(layer.gates[first].state_dict())
        self._joint = False

    def save(self, path: Path) -> None:
        """Write everything that `restore` needs, to a temporary name first."""
        plan = self.plan
        state = {
            "config": self.model.config.to_dict(),
            "seed": plan.seed,
            "scenes": len(self.scenes.rgb),
            "weights": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "recent": self._recent,
            "joint": self._joint,
            "order": torch.from_numpy(self._order),
            "rng": json.dumps(self._rng.bit_generator.state),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, path: Path) -> None:
        """Go on where the run that `save` wrote stood.

        Length, batch, rates and shares may differ from that run's: what is left follows the plan.

        Raises
        ------
        ValueError
            The file is no such state, or of another model, other scenes or another seed.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            mine = {
                "config": self.model.config.to_dict(),
                "seed": self.plan.seed,
                "scenes": len(self.scenes.rgb),
            }
            for name, value in mine.items():
                if state[name] != value:
                    raise ValueError(
                        f"state {path} must be of the same {name} as this run, {value!r}, "
                        f"not {state[name]!r}: name another file, or remove it"
                    )
            self.model.load_state_dict(state["weights"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._order = state["order"].numpy()
            self._rng.bit_generator.state = json.loads(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.history, self._recent = state["history"], state["recent"]
            self._joint = state["joint"]
        except (
            OSError,
            KeyError,
            TypeError,
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise ValueError(f"state {path} must be a file of models.train: {error}") from error
