"""Joint training of both tasks: python -m moesaic.models.train --preset nano --out FILE."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from moesaic.models.config import PRESETS, preset
from moesaic.models.evaluation import evaluate
from moesaic.models.m3vit import M3ViT, initialise, load_checkpoint, save_checkpoint
from moesaic.models.packing import BITS
from moesaic.models.plan import Plan
from moesaic.models.scene_store import draw_scenes, progress_bar, stored_scenes
from moesaic.models.scenes import HELDOUT_SEED, SceneBatch
from moesaic.models.trainer import HISTORY_STEPS, Trainer

SAVE_SECONDS = 240.0
CURVE_POINTS = 25


def train(model: M3ViT, scenes: SceneBatch, **plan: Any) -> None:
    """Train all tasks of a model in place, with a plan of the fields of `Plan`."""
    run(Trainer(model, scenes, Plan(**plan)))


def run(trainer: Trainer, state: Path | None = None) -> bool:
    """Train with a progress display until the plan is done or a signal asks to stop.

    With `state`, the run is written there every `SAVE_SECONDS` and at its end. Returns whether
    the plan is done.
    """
    stop: list[int] = []
    handled = [signal.SIGTERM, signal.SIGINT] if state else []
    before = {number: signal.signal(number, lambda n, _: stop.append(n)) for number in handled}
    saved = time.monotonic()
    with progress_bar() as progress:
        bar = progress.add_task(
            "training", total=trainer.length, completed=int(trainer.done), note=""
        )

        def each_step(losses: dict[str, float]) -> bool:
            nonlocal saved
            note = "  ".join(f"{task} {value:.3f}" for task, value in losses.items())
            progress.update(bar, completed=trainer.done, note=note)
            if trainer.step % HISTORY_STEPS == 0 and not progress.console.is_terminal:
                share, minutes = 100 * trainer.progress, trainer.seconds / 60
                print(f"step {trainer.step}  {share:.1f} %  {minutes:.1f} min  {note}", flush=True)
            if state and time.monotonic() - saved > SAVE_SECONDS:
                trainer.save(state)
                saved = time.monotonic()
            return not stop

        finished = trainer.run(each_step)
    if state:
        trainer.save(state)
    for number, handler in before.items():
        signal.signal(number, handler)
    return finished


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file (.pt)")
    parser.add_argument("--scenes", type=int, default=6000, help="training scenes")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="length of the run (default: 6000)")
    length.add_argument("--minutes", type=float, help="length of the run in time instead of steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--heldout", type=int, default=64, help="evaluation scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--coarse", type=float, default=0.0, help="share of the run at half the resolution"
    )
    parser.add_argument(
        "--joint",
        type=float,
        default=0.0,
        help="share of the run with the same gates for all tasks",
    )
    parser.add_argument(
        "--bits", type=int, choices=BITS, default=32, help="of large weights in the checkpoint"
    )
    parser.add_argument("--threads", type=int, help="of torch (default: it decides)")
    parser.add_argument(
        "--state", type=Path, help="file to resume from if it is there; written as the run goes on"
    )
    parser.add_argument(
        "--scene-file", type=Path, help="file (.npz) of the training scenes; written if missing"
    )
    options = parser.parse_args()
    if options.steps is None and options.minutes is None:
        options.steps = 6000
    return options


def command_line(options: argparse.Namespace) -> str:
    """Return the command that makes the same checkpoint.

    Where the run was kept between its parts is not in it: that changes nothing. With --minutes,
    how far a run gets depends on the machine.
    """
    words = [
        f"--{name} {value}"
        for name, value in vars(options).items()
        if value is not None and name not in ("state", "scene_file", "threads")
    ]
    return " ".join(["python -m moesaic.models.train", *words])


def prepare(options: argparse.Namespace) -> Trainer:
    """Return the run that the options ask for, where it stood if it has a state.

    Raises
    ------
    ValueError
        An option has a value that does not work, or a file is not what it must be.
    """
    plan = Plan(
        steps=1 if options.steps is None else options.steps,
        seconds=None if options.minutes is None else options.minutes * 60,
        batch=options.batch,
        peak_rate=options.rate,
        seed=options.seed,
        coarse_share=options.coarse,
        joint_share=options.joint,
    )
    config = preset(options.preset)
    torch.manual_seed(options.seed)
    model = M3ViT(config)
    initialise(model, options.seed)
    scenes = stored_scenes(options.scene_file, options.scenes, config.height, config.width)
    trainer = Trainer(model, scenes, plan)
    if options.state and options.state.exists():
        trainer.restore(options.state)
        print(f"resumed {options.state} at step {trainer.step}", flush=True)
    return trainer


def thinned(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return about `CURVE_POINTS` entries of a history, the last one included."""
    return history[:: -max(1, round(len(history) / CURVE_POINTS))][::-1]


def main() -> None:
    """Train a preset, write the checkpoint and, beside it, a JSON file of what it measures."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    began = time.monotonic()
    try:
        trainer = prepare(options)
        config = trainer.model.config
        # Before the training: whatever is wrong with them should not be found hours later.
        heldout = draw_scenes(options.heldout, config.height, config.width, HELDOUT_SEED)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        earlier = trainer.seconds
        finished = run(trainer, options.state)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if not finished:
        raise SystemExit(f"stopped at step {trainer.step}: the same command goes on from there")
    save_checkpoint(trainer.model, options.out, options.bits)
    # What is measured is what was written: rounded, if it has few bits.
    report = evaluate(load_checkpoint(options.out), heldout)
    report["train_seconds"] = round(earlier + time.monotonic() - began)
    report["train_steps"] = trainer.step
    report["curve"] = thinned(trainer.history)
    report["command"] = command_line(options)
    report["date"] = datetime.date.today().isoformat()
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
