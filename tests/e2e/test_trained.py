"""The trained two-task model on the RTL: what the README promises."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from moesaic.compiler.validate.oracle import run_onnx
from moesaic.host.torch_devices import CpuDevice
from moesaic.models.export import export_onnx, write_samples
from moesaic.models.m3vit import trained_model
from moesaic.models.metrics import depth_rmse, mean_iou
from moesaic.models.scenes import HELDOUT_SEED
from moesaic.sim.build import accelerator_verilog
from moesaic.sim.dram import CDramConfig, DramConfig
from moesaic.sim.library import build_library
from moesaic.spec.bundle import IMAGE, load_bundle
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.metrics import sqnr_db

from .conftest import moesaic

ROOT = Path(__file__).resolve().parents[2]
SCENES = 32


@dataclass(frozen=True)
class Trained:
    """Folder with ONNX files, scenes and the bundle of the trained model."""

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def heldout(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "heldout.npz") as file:
            return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    model = trained_model("nano")
    size = (model.config.height, model.config.width)
    models = []
    for task in model.config.task_names:
        export_onnx(model, task, folder / f"{task}.onnx")
        models.append(f"{task}={folder / task}.onnx")
    write_samples(folder / "calibration.npz", 0, 16, *size)
    write_samples(folder / "heldout.npz", HELDOUT_SEED, SCENES, *size)
    done = moesaic(
        "compile", *models, "--target", "nano", "--calibrate", folder / "calibration.npz",
        "-o", folder / "bundle",
    )  # fmt: skip
    assert done.code == 0, done.err
    return Trained(folder)


def test_eight_scenes_in_turns_are_bit_exact(trained: Trained) -> None:
    done = moesaic("verify", trained.bundle, "--json")
    assert done.code == 0, done.out + done.err
    result = json.loads(done.out)
    assert set(result["tasks"]) == {"seg", "depth"}
    for task in result["tasks"].values():
        assert task["bit_exact"] and task["frames"] == 8
        assert task["sqnr_db"] >= 20


def test_c_program_runs_both_tasks_on_the_rtl(trained: Trained, tmp_path: Path) -> None:
    """No Python between bundle and gateware: the C driver, its platform and the Verilated model."""
    made = subprocess.run(["make", "-s", "-C", ROOT / "firmware", "rtl_frames"], check=False)
    assert made.returncode == 0
    bundle = load_bundle(trained.bundle)
    simulator = build_library(accelerator_verilog(bundle.arch))
    (tmp_path / "dram").write_bytes(bytes(CDramConfig.of(DramConfig())))
    frames: list[str | Path] = []
    for number in range(2):
        for task, graph in bundle.graphs.items():
            given, codes = tmp_path / f"{task}{number}.in", tmp_path / f"{task}{number}.codes"
            sample = bundle.samples[f"{task}.input"][number : number + 1]
            given.write_bytes(quantise_input(graph, sample).tobytes())
            codes.write_bytes(bundle.samples[f"{task}.codes"][number].astype("<i2").tobytes())
            frames += [task, given, codes]
    program = ROOT / "build" / "firmware" / "native" / "examples" / "rtl_frames"
    image = trained.bundle / IMAGE
    command = [program, simulator, image, tmp_path / "dram", str(1 << 26)]
    done = subprocess.run([*command, *frames], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["seg", "depth"] * 2
    assert done.stdout.count("bit-exact") == 4
    # One code that is expected to be another is noticed.
    spoiled = bytearray(frames[2].read_bytes())  # type: ignore[union-attr]
    spoiled[0] ^= 1
    frames[2].write_bytes(spoiled)  # type: ignore[union-attr]
    done = subprocess.run([*command, *frames], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DIFFERENT" in done.stdout


def test_task_switch_takes_at_most_200_cycles(trained: Trained) -> None:
    done = moesaic("verify", trained.bundle, "--samples", "1", "--switch", "--json")
    assert done.code == 0, done.err
    switches = json.loads(done.out)["switches"]
    assert [(s["before"], s["after"]) for s in switches] == [("seg", "depth"), ("depth", "seg")]
    for switch in switches:
        order = [switch[mark] for mark in ("acknowledged", "started", "instruction", "weights")]
        assert 0 < order[0] < order[1] < order[2] < order[3] <= 200


def test_array_is_busy_and_weights_cross_the_bus_once(trained: Trained) -> None:
    np.savez(trained.folder / "in.npz", image=trained.heldout()["image"][:2])
    for task in ("seg", "depth"):
        output, stats = trained.folder / f"{task}.npz", trained.folder / f"{task}.json"
        done = moesaic(
            "simulate", trained.bundle, "--task", task, "--input", trained.folder / "in.npz",
            "--output", output, "--stats", stats,
        )  # fmt: skip
        assert done.code == 0, done.err
        figures = json.loads(stats.read_text())
        assert len(figures["cycles"]) == figures["frames"] == 2
        assert figures["utilisation"] >= 0.8
        image_words = load_bundle(trained.bundle).tasks[task].weight_words
        for seen in figures["per_frame"]:
            frame, weights = seen["counters"], seen["weight_read_bytes"]
            assert frame["EXPERTS_SKIPPED"] == frame["WEIGHT_UNUSED_BYTES"] == 0
            assert weights == frame["WEIGHT_READ_BYTES"] == image_words * 32
            assert frame["SCORE_READS"] == frame["SCORE_WORDS"] > 0
        with np.load(output) as file:
            assert np.isfinite(file[task]).all()


def test_integers_keep_the_quality(trained: Trained) -> None:
    heldout = trained.heldout()
    np.savez(trained.folder / "all.npz", image=heldout["image"])
    outputs = {}
    for task in ("seg", "depth"):
        path = trained.folder / f"{task}_integer.npz"
        done = moesaic(
            "run", trained.bundle, "--task", task, "--device", "cpu", "--input",
            trained.folder / "all.npz", "--output", path,
        )  # fmt: skip
        assert done.code == 0, done.err
        with np.load(path) as file:
            integer = file[task]
        reference = run_onnx(trained.folder / f"{task}.onnx", "image", heldout["image"])
        assert sqnr_db(reference, integer) >= 20
        outputs[task] = (reference, integer)
    ious = [mean_iou(output.argmax(1), heldout["seg"]) for output in outputs["seg"]]
    errors = [depth_rmse(output, heldout["depth"]) for output in outputs["depth"]]
    assert ious[0] > 0.8 and abs(ious[0] - ious[1]) <= 0.01
    assert errors[0] < 0.08 and abs(errors[1] / errors[0] - 1) <= 0.02


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_gives_the_stored_codes(trained: Trained, device: str) -> None:
    """All scenes in one call; the codes that the bundle stores are among them."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    bundle, images = load_bundle(trained.bundle), trained.heldout()["image"]
    for task, graph in bundle.graphs.items():
        stored = bundle.samples[f"{task}.input"]
        patches = quantise_input(graph, np.concatenate([stored, images]))
        got = Executor(graph, device).run(patches)
        assert (got[: len(stored)] == bundle.samples[f"{task}.codes"]).all()
        single = np.concatenate([Executor(graph).run(frame[None]) for frame in patches[-3:]])
        assert (got[-3:] == single).all()
        assert (got == CpuDevice(bundle).run(task, patches).codes).all()
