"""Models whose head stays on the host: M3ViT's up-sampling decoder on the trained backbone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler.validate.oracle import run_onnx
from moesaic.host import Session
from moesaic.host.serving.models import tensors_of
from moesaic.models.export import export_onnx, write_samples
from moesaic.models.m3vit import random_model, trained_model, with_upsample_heads
from moesaic.models.scenes import HELDOUT_SEED
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import HostPart
from moesaic.spec.metrics import sqnr_db

from .conftest import SMALL, moesaic
from .test_user_errors import assert_refused

SCENES = 8
STAGES = 4
"""Doublings of the resolution from patches of 16 pixels."""
BOUNDS_DB = {"seg": 28, "depth": 36}
"""Least SQNR from image to output. On the held-out scenes 30.6 and 38.7 dB were measured, on the
calibration samples 30.8 and 41.0 dB; at the cut 29.2 and 36.8 dB."""


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ONNX files of both tasks, scenes and the bundle."""
    folder = tmp_path_factory.mktemp("nano")
    model = with_upsample_heads(trained_model("nano"), width=32, seed=0)
    for task in model.config.task_names:
        export_onnx(model, task, folder / f"{task}.onnx")
    size = (model.config.height, model.config.width)
    write_samples(folder / "calibration.npz", 0, 16, *size)
    write_samples(folder / "heldout.npz", HELDOUT_SEED, SCENES, *size)
    done = compile_tasks(folder, "--partition")
    assert done.code == 0, done.err
    assert done.err.count("where it runs") == 2 and "node_Conv" in done.err
    return folder


def compile_tasks(folder: Path, *options: str):  # type: ignore[no-untyped-def]
    models = [f"{task}={folder / task}.onnx" for task in ("seg", "depth")]
    return moesaic(
        "compile", *models, "--target", "nano", "--calibrate", folder / "calibration.npz",
        "-o", folder / "bundle", *options,
    )  # fmt: skip


def images(folder: Path) -> np.ndarray:
    with np.load(folder / "heldout.npz") as file:
        return np.array(file["image"])


def test_refused_without_the_option(nano: Path, tmp_path: Path) -> None:
    for task in ("seg", "depth"):
        shutil.copy(nano / f"{task}.onnx", tmp_path)
    shutil.copy(nano / "calibration.npz", tmp_path)
    assert_refused(compile_tasks(tmp_path), "seg.onnx", "(Conv in ", "padding", "--partition")
    assert not (tmp_path / "bundle").exists()


def test_placement_lists_what_follows_the_last_norm(nano: Path) -> None:
    report = json.loads(moesaic("inspect", nano / "bundle", "--json").out)
    for task, channels in (("seg", 7), ("depth", 1)):
        host = report["tasks"][task]["host"]
        operators = [node["operator"] for node in host["nodes"]]
        assert operators == ["Conv", "Relu", "Resize"] * STAGES + ["Conv"]
        assert all(node["name"] and node["reason"] for node in host["nodes"])
        assert [cut["shape"] for cut in host["cuts"]] == [[1, 96, 4, 8]]
        assert host["outputs"] == {task: [1, channels, 64, 128]}
        pixels = [4 * 8 * 4**stage for stage in range(STAGES + 1)]
        assert host["macs"] == (
            pixels[0] * 96 * 32 * 9 + sum(pixels[1:STAGES]) * 32 * 32 * 9
            + pixels[STAGES] * 32 * channels
        )  # fmt: skip
    shown = moesaic("inspect", nano / "bundle").out
    assert shown.count("where it runs") == 2 and shown.count("Resize") >= 2 * STAGES


def test_rtl_and_cpu_give_the_same_bits_through_the_host(nano: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", image=images(nano)[:1])
    for task in ("seg", "depth"):
        files = {}
        for device in ("sim", "cpu"):
            files[device] = tmp_path / f"{device}.npz"
            arguments = ("--task", task, "--input", tmp_path / "in.npz", "--output", files[device])
            command = ("simulate",) if device == "sim" else ("run", "--device", "cpu")
            done = moesaic(command[0], nano / "bundle", *command[1:], *arguments)
            assert done.code == 0, done.err
        with np.load(files["sim"]) as sim, np.load(files["cpu"]) as cpu:
            assert list(sim) == list(cpu) == [task]
            assert sim[task].dtype == np.float32 and sim[task].shape[2:] == (64, 128)
            assert np.array_equal(sim[task], cpu[task])


def test_verify_compares_codes_at_the_cut(nano: Path) -> None:
    done = moesaic("verify", nano / "bundle", "--samples", "1", "--json")
    assert done.code == 0, done.out + done.err
    for verdict in json.loads(done.out)["tasks"].values():
        assert verdict["bit_exact"] and verdict["codes"] == 32 * 96
        assert verdict["sqnr_db"] > 20


def test_close_to_the_whole_float_model(nano: Path) -> None:
    rows = images(nano)
    report = load_bundle(nano / "bundle").report["tasks"]
    with Session(nano / "bundle") as session:
        for task, bound in BOUNDS_DB.items():
            exact = run_onnx(nano / f"{task}.onnx", "image", rows)
            outputs = session.run({"image": rows}, task)[task]
            assert sqnr_db(exact, outputs) > bound
            assert report[task]["sqnr_db"] > bound
            # The decoder adds no error of its own: it averages that of the tokens.
            assert report[task]["sqnr_db"] > report[task]["host"]["cuts"][0]["sqnr_db"] > 25
            assert np.array_equal(outputs, session.run({"image": rows}, task)[task])


def test_estimate_counts_the_accelerator(nano: Path) -> None:
    done = moesaic("estimate", nano / "bundle", "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["tasks"]) == {"seg", "depth"}
    model = ("estimate", nano / "seg.onnx", "--target", "nano")
    assert_refused(moesaic(*model), "--partition")
    assert moesaic(*model, "--partition").code == 0


@pytest.fixture
def copy(nano: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return shutil.copytree(nano / "bundle", tmp_path / "copy")


def test_damaged_host_part_is_refused(copy: Path) -> None:
    path = copy / "depth.host.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_refused(moesaic("inspect", copy), "depth.host.onnx does not match its hash")


def test_missing_host_part_is_refused(copy: Path) -> None:
    (copy / "seg.host.onnx").unlink()
    assert_refused(
        moesaic("inspect", copy),
        f"seg.host.onnx of {copy} cannot be read: No such file or directory",
    )


def test_host_part_that_is_no_model() -> None:
    with pytest.raises(UserError, match="ONNX Runtime cannot run the host's part .*compile it"):
        HostPart(b"no model", "the host's part of task seg", {"seg": None}).open()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task whole, one divided, on one backbone."""
    folder = tmp_path_factory.mktemp("mixed")
    model = random_model(SMALL, 1)
    export_onnx(model, "seg", folder / "seg.onnx")
    export_onnx(with_upsample_heads(model, width=8, seed=2), "depth", folder / "depth.onnx")
    rows = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "calibration.npz", image=rows)
    done = compile_tasks(folder, "--partition")
    assert done.code == 0, done.err
    return folder / "bundle"


def test_mixed_bundle(mixed: Path) -> None:
    bundle = load_bundle(mixed)
    assert list(bundle.host_parts) == ["depth"]
    served = {task: tensors_of(bundle, task) for task in bundle.tasks}
    assert [list(served[task].outputs) for task in ("seg", "depth")] == [["seg"], ["depth"]]
    assert served["depth"].outputs["depth"].frame == (1, 32, 32)
    assert bundle.report["tasks"]["seg"]["host"] is None
    rows = bundle.samples["seg.input"]
    with Session(bundle) as session:
        outputs = {task: session.run([task], {"image": rows}, task) for task in ("seg", "depth")}
        cut = bundle.graphs["depth"].heads[0].name
        with pytest.raises(UserError, match=f"no output '{cut}', only 'depth'"):
            session.run([cut], {"image": rows}, "depth")
    for task, channels in (("seg", 3), ("depth", 1)):
        assert outputs[task][task].shape == (4, channels, 32, 32)
        exact = bundle.samples[f"{task}.float"]
        figure = bundle.report["tasks"][task]["sqnr_db"]
        assert sqnr_db(exact, outputs[task][task]) == pytest.approx(figure)
    done = moesaic("verify", mixed, "--samples", "1")
    assert done.code == 0 and done.out.count("bit-exact") == 2


def test_without_onnxruntime(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tasks run; a divided one says what it lacks."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    bundle = load_bundle(mixed)
    rows = {"image": bundle.samples["seg.input"][:1]}
    with Session(bundle) as session:
        assert session.run(rows, "seg")["seg"].shape == (1, 3, 32, 32)
        with pytest.raises(UserError, match="task depth .*onnxruntime"):
            session.run(rows, "depth")
