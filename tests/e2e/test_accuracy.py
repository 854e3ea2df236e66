"""`moesaic accuracy` and the options of `compile` that it speaks of, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler.accuracy.metrics import find_metric, miou, rmse, top1
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from tests.e2e.conftest import SMALL, moesaic


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames and labels that no calibration saw."""
    path = tmp_path_factory.mktemp("unseen") / "unseen.npz"
    rng = np.random.default_rng(9)
    shape = (6, SMALL.height, SMALL.width)
    np.savez(
        path,
        image=rng.normal(size=(6, 3, SMALL.height, SMALL.width)).astype(np.float32),
        seg=rng.integers(0, 3, shape),
        depth=rng.normal(size=shape).astype(np.float32),
    )
    for link, end in (("link.json", path), ("a.json", "same"), ("a.png", "same")):
        (path.parent / link).symlink_to(end)
    return path


def test_every_figure_comes_in_text_json_and_picture(
    small_models: tuple[Path, list[str]], small_bundle: Path, unseen: Path, tmp_path: Path
) -> None:
    user = tmp_path / "mine.py"
    user.write_text("def spread(outputs, labels):\n    return outputs.std() + labels.std()\n")
    found, picture = tmp_path / "found.json", tmp_path / "points.png"
    done = moesaic(
        "accuracy", small_bundle, "--samples", unseen, "--labels", unseen,
        *(word for model in small_models[1] for word in ("--model", model)),
        "--metric", "seg=miou", "--metric", "depth=rmse", "--metric", f"depth={user}:spread",
        "--json", found, "--picture", picture,
    )  # fmt: skip
    assert done.code == 0, done.err
    for text in ("against the float model", "their weights alone", "miou", "rmse", "alone"):
        assert text in done.out
    assert picture.read_bytes()[1:4] == b"PNG"
    results = json.loads(found.read_text())
    assert set(results) == {"seg", "depth"}
    for task, result in results.items():
        layers = load_bundle(small_bundle).report["tasks"][task]["routing"]
        assert {flips["layer"] for flips in result["flips"]} == set(layers) != set()
        assert result["samples"] == 6 and result["cycles"] > 1000
        assert result["total_db"] == pytest.approx(result["output_db"], abs=0.01)
        assert result["total_db"] < min(result["weights_db"], result["roundings_db"]) + 0.5
        frames = result["frames_db"]
        assert len(frames) == 6 and min(frames) <= result["total_db"] <= max(frames)
        assert f"of the worst frame, number {frames.index(min(frames))}" in done.out
        points = result["points"]
        assert len(points) > 10
        assert points == sorted(points, key=lambda point: point["alone_db"])
    assert set(results["depth"]["metrics"]) == {"rmse", f"{user}:spread"}
    miou_of = results["seg"]["metrics"]["miou"]
    assert abs(miou_of["float"] - miou_of["integer"]) < 0.05


def test_without_a_model_the_roundings_alone_are_measured(small_bundle: Path, unseen: Path) -> None:
    done = moesaic("accuracy", small_bundle, "--samples", unseen)
    assert done.code == 0, done.err
    assert "all but their weights" in done.out and "against the float model" not in done.out


def test_a_target_makes_rows_wide_and_the_bundle_still_verifies(
    small_models: tuple[Path, list[str]], tmp_path: Path, unseen: Path
) -> None:
    folder, models = small_models
    given = ("--target", "nano", "--calibrate", folder / "samples.npz", "--held-out", unseen)
    done = moesaic("compile", *models, *given, "-o", tmp_path / "plain")
    assert done.code == 0 and "6 samples held out" in done.err and "in 16 bits" not in done.err
    report = json.loads(moesaic("inspect", tmp_path / "plain", "--json").out)
    for task in report["tasks"].values():  # both of the same samples
        assert task["sqnr_db"] == pytest.approx(task["quantisation"]["sqnr_db"], abs=0.02)
    least = min(task["quantisation"]["sqnr_db"] for task in report["tasks"].values())
    more = ("--target-sqnr", f"{least + 1:.2f}", "-o", tmp_path / "wide")
    done = moesaic("compile", *models, *given, *more)
    assert done.code == 0 and "in 16 bits" in done.err, done.err
    assert moesaic("verify", tmp_path / "wide", "--samples", "1").code == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--metric", "seg=miou"], "--metric and --labels go together: give both"),
        (["--metric", "seg=f1"], "--metric takes top1, miou, rmse or FILE.py:FUNCTION, not 'f1'"),
        (["--metric", "seg=gone.py:f"], "FileNotFoundError"),
        (["--metric", "miou"], "needs a task: write --metric seg=miou"),
        (["--model", "pose=x.onnx"], "names the task 'pose'; the bundle has seg, depth"),
        (["--model", "seg=gone.onnx"], "gone.onnx"),
        (["--labels", "gone.npz", "--metric", "seg=miou"], "gone.npz"),
        (["--labels", "x.npz"], "--metric and --labels go together: give both"),
        (["--model", "seg=a.onnx", "--model", "seg=b.onnx"], "two files for task seg"),
        (["--json", "{bundle}/manifest.json"], "it is read, or written twice"),
        (["--json", "{unseen.parent}/link.json"], "it is read, or written twice"),
        (
            ["--json", "{unseen.parent}/a.json", "--picture", "{unseen.parent}/a.png"],
            "it is read, or written twice",
        ),
        (["--picture", "/proc/points.png"], "cannot be written"),
        (["--worst", "0"], "Invalid value for '--worst'"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], complaint: str, small_bundle: Path, unseen: Path, tmp_path: Path
) -> None:
    places = {"bundle": small_bundle, "unseen": unseen, "folder": tmp_path}
    before = (small_bundle / "manifest.json").read_bytes(), unseen.read_bytes()
    words = [word.format(**places) for word in words]
    done = moesaic("accuracy", small_bundle, "--samples", unseen, *words)
    assert done.code == 2 and complaint in " ".join(done.err.split()), done.err
    assert before == ((small_bundle / "manifest.json").read_bytes(), unseen.read_bytes())
    assert not [*tmp_path.iterdir()]


def test_another_model_is_not_taken_for_the_one_that_was_compiled(
    small_models: tuple[Path, list[str]], small_bundle: Path, unseen: Path
) -> None:
    other = small_models[0] / "depth.onnx"
    done = moesaic("accuracy", small_bundle, "--samples", unseen, "--model", f"seg={other}")
    assert done.code == 2
    assert "is not the file that task seg was compiled from, seg.onnx" in " ".join(done.err.split())


def test_json_is_json_where_nothing_is_lost(
    small_bundle: Path, unseen: Path, tmp_path: Path
) -> None:
    with np.load(unseen) as file:
        np.savez(tmp_path / "zero.npz", image=np.zeros_like(file["image"]))
    found = tmp_path / "found.json"
    done = moesaic("accuracy", small_bundle, "--samples", tmp_path / "zero.npz", "--json", found)
    assert done.code == 0, done.err

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    results = json.loads(found.read_text(), parse_constant=refuse)
    printed = moesaic("accuracy", small_bundle, "--samples", tmp_path / "zero.npz", "--json", "-")
    assert printed.code == 0 and json.loads(printed.out, parse_constant=refuse) == results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "zero.npz"]
    points = {point["point"]: point["alone_db"] for point in results["seg"]["points"]}
    assert points["input"] is None and points["head.norm"] > 20


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--budget-cycles", "many"], "--budget-cycles takes cycles of a frame, or 15% more"),
        (["--budget-cycles", "-5%"], "--budget-cycles takes cycles of a frame, or 15% more"),
        (["--budget-cycles", "inf%"], "--budget-cycles takes cycles of a frame, or 15% more"),
        (["--budget-cycles", "1e2"], "without any 16-bit rows, more than --budget-cycles 100"),
        (["--target-sqnr", "nan"], "--target-sqnr takes decibels from 0 on, not nan"),
        (["--target-sqnr", "-5"], "--target-sqnr takes decibels from 0 on, not -5"),
        (["--target-sqnr", "200"], "not 200: ask for less, allow more cycles"),
        (["--held-out", "gone.npz"], "gone.npz"),
    ],
)
def test_what_cannot_be_compiled_so_is_refused(
    words: list[str], complaint: str, small_models: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, models = small_models
    given = ("--target", "nano", "--calibrate", folder / "samples.npz", "-o", tmp_path / "out")
    done = moesaic("compile", *models, *given, *words)
    assert done.code == 2 and complaint in done.err.replace("\n", " "), done.err
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_what_they_say() -> None:
    outputs = np.zeros((2, 3, 1, 2), np.float32)
    outputs[0, 1], outputs[1, 2] = 1, 1  # the frames are classes 1 and 2
    labels = np.array([[[1, 1]], [[2, 0]]])
    assert miou(outputs, labels) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert top1(outputs[:, :, 0, 0], np.array([1, 0])) == 0.5
    assert rmse(np.float32([[[1, 3]]]), np.array([[1, 1]])) == pytest.approx(2**0.5)
    for metric, wrong in ((miou, labels[:, 0]), (rmse, labels[:1]), (top1, labels)):
        with pytest.raises(UserError, match="labels of .* must have the shape"):
            metric(outputs, wrong)
    ignored = labels.copy()
    ignored[1, 0, 1] = 255
    assert miou(outputs, ignored) == 1.0
    for wrong in (labels + 0.5, labels > 0, np.full_like(labels, 255)):
        with pytest.raises(UserError, match="labels of miou must be"):
            miou(outputs, wrong)
    with pytest.raises(UserError, match="labels of rmse must be finite"):
        rmse(np.float32([1, 2]), np.array([np.nan, 1]))
    with pytest.raises(UserError, match="takes top1"):
        find_metric("accuracy")


def test_a_failing_metric_of_the_users_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def f(outputs, labels):\n    return outputs.nothing\n")
    with pytest.raises(UserError, match="bad.py:f: AttributeError"):
        find_metric(f"{path}:f")(np.zeros(1, np.float32), np.zeros(1))
    with pytest.raises(UserError, match="bad.py:g: AttributeError"):
        find_metric(f"{path}:g")
    path.write_text("import sys\ndef f(outputs, labels):\n    sys.exit(3)\n")
    with pytest.raises(UserError, match="bad.py:f: SystemExit: 3"):
        find_metric(f"{path}:f")(np.zeros(1, np.float32), np.zeros(1))
