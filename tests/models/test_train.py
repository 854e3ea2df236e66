"""Training: the losses by hand, learning on a few scenes, and both command lines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from moesaic.models import losses
from moesaic.models import train as training
from moesaic.models.config import PRESETS, M3ViTConfig
from moesaic.models.evaluation import predict
from moesaic.models.m3vit import CHECKPOINTS, M3ViT, initialise, load_checkpoint, trained_model
from moesaic.models.metrics import depth_rmse, mean_iou
from moesaic.models.plan import learning_rate
from moesaic.models.scene_store import stored_scenes
from moesaic.models.scenes import HELDOUT_SEED, make_batch

SMALL = M3ViTConfig(height=32, width=64, dim=32, heads=2, depth=2, experts=4, expert_hidden=32)


def test_balance_loss_by_hand() -> None:
    model = M3ViT(SMALL)
    (layer,) = model.moe_layers()
    layer.statistics = torch.full((4,), 0.25), torch.full((4,), 0.25)
    assert float(losses.balance_loss(model)) == pytest.approx(1.0)
    layer.statistics = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.7, 0.1, 0.1, 0.1])
    assert float(losses.balance_loss(model)) == pytest.approx(2.8)
    none = M3ViT(dataclasses.replace(SMALL, moe_layers="none"))
    assert float(losses.balance_loss(none)) == 0.0


def test_learning_rate_warms_up_then_falls() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[4] == pytest.approx(1.0)
    assert all(a > b for a, b in zip(rates[5:], rates[6:], strict=False))
    assert rates[-1] == pytest.approx(0.01, abs=2e-3)


def test_training_learns_both_tasks_and_every_expert_gets_gradients() -> None:
    scenes = make_batch(range(8), SMALL.height, SMALL.width)
    seg, depth = torch.from_numpy(scenes.seg.astype(np.int64)), torch.from_numpy(scenes.depth)

    def measured(model: M3ViT) -> dict[str, float]:
        outputs = {t: torch.from_numpy(predict(model, scenes, t)) for t in ("seg", "depth")}
        return {t: float(losses.task_loss(o, seg, depth, t)) for t, o in outputs.items()}

    torch.manual_seed(0)
    model = M3ViT(SMALL)
    initialise(model, 0)
    before, start = measured(model), {n: p.clone() for n, p in model.named_parameters()}
    training.train(model, scenes, steps=120, batch=8, seed=1)
    after = measured(model)
    assert before["seg"] == pytest.approx(float(torch.tensor(7.0).log()), abs=0.1)
    assert after["seg"] < 0.6 * before["seg"] and after["depth"] < 0.3 * before["depth"]
    assert not model.training
    assert all(not torch.equal(p, start[n]) for n, p in model.named_parameters())


def test_depth_loss_is_smooth_l1() -> None:
    output, depth = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    error = (output - depth).abs()
    by_hand = torch.where(error < 0.1, error**2 / 0.2, error - 0.05).mean()
    loss = losses.task_loss(output, torch.zeros(2, 4, 4).long(), depth, "depth")
    torch.testing.assert_close(loss, losses.DEPTH_WEIGHT * by_hand)
    logits, seg = torch.randn(2, 7, 4, 4), torch.randint(7, (2, 4, 4))
    expected = -F.log_softmax(logits, 1).gather(1, seg[:, None]).mean()
    torch.testing.assert_close(losses.task_loss(logits, seg, depth, "seg"), expected)


# Largest file, lowest mIoU, highest RMSE of a trained model that comes with the project.
SHIPPED = {"nano": (8e6, 0.6, 0.1), "tiny": (25e6, 0.6, 0.1)}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_checkpoint_does_what_its_report_says(name: str) -> None:
    most_bytes, least_miou, most_rmse = SHIPPED[name]
    path = CHECKPOINTS / f"{name}.pt"
    report = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < most_bytes
    model = trained_model(name)
    assert model.config == PRESETS[name]
    count = report["heldout_scenes"]
    size = model.config.height, model.config.width
    scenes = make_batch(range(HELDOUT_SEED, HELDOUT_SEED + count), *size)
    miou = mean_iou(predict(model, scenes, "seg").argmax(1), scenes.seg)
    rmse = depth_rmse(predict(model, scenes, "depth"), scenes.depth)
    assert miou == pytest.approx(report["miou"], abs=1e-3) and miou > least_miou
    assert rmse == pytest.approx(report["depth_rmse"], abs=1e-4) and rmse < most_rmse
    for shares in report["expert_shares"].values():
        # Every expert is used: at least a third of an even share.
        assert all(min(layer) > 1 / 3 / len(layer) for layer in shares)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )


def test_train_command_writes_checkpoint_and_report(tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.pt"
    small = ["--scenes", "4", "--steps", "2", "--batch", "2", "--heldout", "2"]
    done = command("moesaic.models.train", "--preset", "nano", *small, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(out).config == PRESETS["nano"]
    report = json.loads(out.with_suffix(".json").read_text())
    assert 0 <= report["miou"] <= 1 and report["heldout_scenes"] == 2
    assert "--steps 2" in report["command"]


def test_a_stopped_command_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """SIGTERM in the middle of a run: its state is written, the same command ends the run."""
    options = ["--scenes", "4", "--steps", "60", "--batch", "1", "--heldout", "2", "--threads", "1"]
    options += ["--coarse", "0.5", "--joint", "0.5", "--bits", "8"]

    def line(name: str) -> list[str]:
        kept = [
            "--state",
            tmp_path / "s" / f"{name}.state",
            "--scene-file",
            tmp_path / "scenes.npz",
        ]
        return [*options, *map(str, kept), "--out", str(tmp_path / f"{name}.pt")]

    whole = command("moesaic.models.train", *line("whole"))
    assert whole.returncode == 0, whole.stderr
    stopped = subprocess.Popen(
        [sys.executable, "-m", "moesaic.models.train", *line("parts")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stopped.stdout is not None
    assert any(text.startswith("step 50 ") for text in stopped.stdout)
    stopped.terminate()
    stopped.communicate()
    if stopped.returncode:  # it may have been at its end already
        assert not (tmp_path / "parts.pt").exists()
        rest = command("moesaic.models.train", *line("parts"))
        assert rest.returncode == 0 and "resumed" in rest.stdout, rest.stderr
    one, two = (
        load_checkpoint(tmp_path / f"{name}.pt").state_dict() for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    report = json.loads((tmp_path / "parts.json").read_text())
    assert report["train_steps"] == 60 and report["curve"][0]["step"] == 50
    assert str(tmp_path) not in report["command"].replace(str(tmp_path / "parts.pt"), "")
    assert "--coarse 0.5 --joint 0.5 --bits 8" in report["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coarse", "2"], "coarse_share must lie in 0..1, not 2.0"),
        (["--minutes", "0"], "seconds must be positive, not 0.0"),
        (["--heldout", "0"], "the number of scenes must be positive, not 0"),
        (["--steps", "5", "--minutes", "5"], "not allowed with"),
        (["--scene-file", "{there}"], "there must be one that this wrote"),
        (["--state", "{there}"], "there must be a file of models.train"),
    ],
)
def test_train_command_refuses_in_one_sentence(
    options: list[str], message: str, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("nothing of ours")
    words = [word.format(there=there) for word in options]
    if "--scenes" not in words:
        words += ["--scenes", "2"]
    done = command("moesaic.models.train", *words, "--out", str(tmp_path / "m.pt"))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "m.pt").exists()


def test_scene_file_of_other_scenes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenes.npz"
    drawn = stored_scenes(path, 3, 32, 64)
    again = stored_scenes(path, 3, 32, 64)
    for name in ("rgb", "seg", "depth"):
        assert np.array_equal(getattr(drawn, name), getattr(again, name))
    assert [file.name for file in tmp_path.iterdir()] == ["scenes.npz"]
    with pytest.raises(ValueError, match="scenes.npz must hold 4 scenes of 32x64 pixels"):
        stored_scenes(path, 4, 32, 64)
    with pytest.raises(ValueError, match="scenes.npz must hold 3 scenes of 64x64 pixels"):
        stored_scenes(path, 3, 64, 64)


def test_export_command_writes_the_demo_inputs(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    options = ["--preset", "nano", "--calibration", "2", "--heldout", "3", "--out", str(out)]
    done = command("moesaic.models.export", *options)
    assert done.returncode == 0, done.stderr
    names = {"seg.onnx", "depth.onnx", "calibration.npz", "heldout.npz"}
    assert {path.name for path in out.iterdir()} == names
    assert onnx.load(out / "depth.onnx").graph.output[0].name == "depth"
    with np.load(out / "heldout.npz") as heldout:
        assert heldout["image"].shape == (3, 3, 64, 128)


def test_export_command_refuses_a_missing_checkpoint(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pt")
    done = command("moesaic.models.export", "--checkpoint", missing, "--out", str(tmp_path / "o"))
    assert done.returncode != 0 and "none.pt must exist" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "o").exists()
