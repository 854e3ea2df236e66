"""ONNX export, one file per task: python -m moesaic.models.export --preset nano --out DIR."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch

from moesaic.models.commands import interruptible
from moesaic.models.config import HEADS, PRESETS, preset
from moesaic.models.m3vit import (
    CHECKPOINTS,
    M3ViT,
    load_checkpoint,
    random_model,
    with_upsample_heads,
)
from moesaic.models.ms_moe import export_ms_moe
from moesaic.models.scenes import HELDOUT_SEED, make_batch
from moesaic.models.steering import ROUTINGS, steer_routing
from moesaic.models.tracing import DEFAULT_OPSET, check_experts, trace


def export_onnx(
    model: M3ViT, task: str, path: str | Path, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """Export one task to a single ONNX file and return what was written.

    Parameters
    ----------
    model
        Any `M3ViT`; it is put in evaluation mode.
    task
        A name of `model.config.tasks`; also the name of the output.
    path
        File to write. The input is `image`, (1, 3, H, W) float32.
    opset
        ONNX operator set, 18 or later.

    Raises
    ------
    ValueError
        Unknown task, or an expert is missing in the graph.
    """
    proto = trace(model, task, opset)
    check_experts(proto.graph, model)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
    return proto


def write_samples(path: Path, first_seed: int, count: int, height: int, width: int) -> None:
    """Write scenes to an .npz file.

    Keys: `image` (N, 3, H, W) float32 network input, `seg` (N, H, W) uint8 classes, `depth`
    (N, 1, H, W) float32 encoded depth, `rgb` (N, 3, H, W) uint8 for pictures.
    """
    batch = make_batch(range(first_seed, first_seed + count), height, width)
    np.savez_compressed(path, image=batch.image, seg=batch.seg, depth=batch.depth, rgb=batch.rgb)


def write_calibration(path: Path, count: int, height: int, width: int) -> None:
    """Write training scenes to an .npz file with the one key `image`, (N, 3, H, W) float32."""
    np.savez_compressed(path, image=make_batch(range(count), height, width).image)


def main() -> None:
    """Write TASK.onnx for each task, calibration.npz and heldout.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument(
        "--checkpoint", type=Path, help="default: the trained one that comes with the preset"
    )
    parser.add_argument(
        "--random", type=int, metavar="SEED", help="random weights instead of a checkpoint"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET)
    parser.add_argument("--calibration", type=int, default=32, help="scenes in calibration.npz")
    parser.add_argument("--heldout", type=int, default=64, help="scenes in heldout.npz")
    parser.add_argument(
        "--ms-moe", action="store_true", help="write MoE layers as com.microsoft.MoE nodes"
    )
    parser.add_argument(
        "--routing", choices=ROUTINGS, help="steer random gates: experts in turn, or few of them"
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default=HEADS[0],
        help="upsample: M3ViT's convolutional decoder, random weights on the backbone",
    )
    parser.add_argument(
        "--head-width", type=int, default=256, help="channels of the decoder's convolutions"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)  # two wait for one another, on a busy machine several times as long

    if options.routing and options.random is None:
        raise SystemExit("--routing is for --random models: a trained one routes as it learned to")
    if options.random is not None and options.checkpoint is not None:
        raise SystemExit("give either --checkpoint or --random, not both")
    config = preset(options.preset)
    if options.random is not None:
        model = random_model(config, options.random)
        if options.routing:
            scenes = make_batch(range(options.calibration), config.height, config.width)
            steer_routing(model, options.routing, torch.as_tensor(scenes.image))
    else:
        checkpoint = options.checkpoint or CHECKPOINTS / f"{options.preset}.pt"
        try:
            model = load_checkpoint(checkpoint)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        if model.config != config:
            raise SystemExit(
                f"checkpoint {checkpoint} must hold the preset {options.preset!r}: "
                "name the preset it was trained with"
            )
    if options.head == "upsample":
        try:
            model = with_upsample_heads(model, options.head_width, options.random or 0)
        except ValueError as error:
            raise SystemExit(str(error)) from None
    options.out.mkdir(parents=True, exist_ok=True)
    for task in config.task_names:
        path = options.out / f"{task}.onnx"
        if options.ms_moe:
            export_ms_moe(model, task, path, options.opset)
        else:
            export_onnx(model, task, path, options.opset)
        print(path)
    size = config.height, config.width
    write_calibration(options.out / "calibration.npz", options.calibration, *size)
    print(options.out / "calibration.npz")
    write_samples(options.out / "heldout.npz", HELDOUT_SEED, options.heldout, *size)
    print(options.out / "heldout.npz")


if __name__ == "__main__":
    interruptible(main)
