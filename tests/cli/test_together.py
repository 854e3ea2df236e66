"""`--together` from end to end: compile, estimate, verify on the RTL, and a session's one run."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from moesaic.cli.compiling import joint_lines
from moesaic.host import Session
from moesaic.spec.bundle import Bundle, load_bundle
from tests.e2e.conftest import moesaic
from tests.e2e.page_tools import Page


@pytest.fixture(scope="module")
def bundle(small_models: tuple[Path, list[str]]) -> Path:
    folder, models = small_models
    place = folder / "together"
    done = moesaic(
        "compile", *models, "--target", "nano", "--calibrate", folder / "samples.npz", "-o", place,
        "--together", "depth,seg", "--together", "seg*3", "--frames", "2",
    )  # fmt: skip
    assert done.code == 0, done.err
    for name in ("seg+depth", "seg*3", "seg*2", "depth*2"):
        assert f"{name}: about" in done.err and "together," in done.err
    return place


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return load_bundle(bundle)


def test_weights_are_stored_once(loaded: Bundle, small_bundle: Path) -> None:
    assert list(loaded.joint) == ["seg+depth", "seg*3", "seg*2", "depth*2"]
    alone = load_bundle(small_bundle).weights
    # Four more programs: nothing but the column tiles that head starts of theirs split.
    assert len(loaded.weights) < 1.25 * len(alone)


def test_together_saves_cycles(bundle: Path, loaded: Bundle) -> None:
    tasks, joint = loaded.report["tasks"], loaded.report["joint"]
    alone = {name: report["cycles"] for name, report in tasks.items()}
    assert joint["seg+depth"]["cycles"] < sum(alone.values())
    assert joint["seg*3"]["cycles"] < 3 * alone["seg"]
    assert joint["seg+depth"]["macs"] < sum(report["macs"] for report in tasks.values())
    done = moesaic("estimate", bundle, "--together", "depth,seg", "--json")
    report = json.loads(done.out)["tasks"]
    assert report["seg+depth"]["cycles"] == joint["seg+depth"]["cycles"]
    shown = moesaic("estimate", bundle, "--target", "zcu102", "--together", "seg,depth*2").out
    assert "seg+depth*2 on zcu102" in shown and "a frame" in shown


def test_verify_runs_every_program(bundle: Path, loaded: Bundle) -> None:
    done = moesaic("verify", bundle, "--samples", "2", "--json")
    verdicts = json.loads(done.out)
    assert done.code == 0 and verdicts["bit_exact"]
    assert list(verdicts["tasks"]) == [*loaded.tasks, *loaded.joint]
    for name, entry in loaded.joint.items():
        found, report = verdicts["tasks"][name], loaded.report["joint"][name]
        assert found["frames"] == 2 * entry.frames and found["codes"] > 0
        assert found["cycles"][0] == pytest.approx(report["cycles"], rel=0.05)


def test_a_session_computes_tasks_in_one_run(loaded: Bundle) -> None:
    images = loaded.sample("seg", "input")[:1]
    with Session(loaded, ["sim"]) as sim, Session(loaded, ["cpu"]) as cpu:
        found = sim.run_many({"image": images}, ["seg", "depth"])
        for task in ("seg", "depth"):
            (output,) = found[task].values()
            np.testing.assert_array_equal(output, cpu.run({"image": images}, task=task)[task])
        (one,), (other,) = (found[task].result.counters for task in ("seg", "depth"))
        alone = sim.run({"image": images}, task="seg").result.counters[0]
    assert one == other and alone["CYCLES"] < one["CYCLES"] < 2 * alone["CYCLES"]


def test_the_report_page_shows_them(bundle: Path, loaded: Bundle, tmp_path: Path) -> None:
    done = moesaic("report", bundle, "-o", tmp_path / "r.html")
    assert done.code == 0, done.err
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    head, *rows = page.tables["Computed together"]
    assert [row[0] for row in rows] == list(loaded.joint)
    tasks, joint = loaded.report["tasks"], loaded.report["joint"]
    for row in rows:
        found, entry = dict(zip(head, row, strict=True)), loaded.joint[row[0]]
        alone = entry.frames * sum(tasks[task]["cycles"] for task in entry.tasks)
        assert found["cycles"] == found["cycles at 90 %"] == f"{joint[row[0]]['cycles']:,}"
        assert found["one by one"] == f"{alone:,}"
        assert found["when"] == "accelerators take it" and found["saved"].endswith(" %")
        assert found["layers in common"].endswith(f" of {len(loaded.graphs['seg'].layers)}")
    assert ("a", {"href": "#together", "data-part": "together"}) in page.elements


def test_programs_are_listed_and_are_no_tasks(bundle: Path, loaded: Bundle) -> None:
    """`inspect` shows them; where a task is asked for they are told from names that there are
    none of."""
    listed = moesaic("inspect", bundle).out
    for name, report in loaded.report["joint"].items():
        row = next(line for line in listed.splitlines() if f" {name} " in line)
        assert f" {report['instructions']} " in row and f" {report['frames']} " in row
    done = moesaic("verify", bundle, "--task", "seg+depth")
    assert done.code == 2 and "computes seg+depth together, which is no task" in done.err
    assert "has no task 'night'" in moesaic("verify", bundle, "--task", "night").err


def test_programs_that_are_no_faster_are_named(loaded: Bundle) -> None:
    report = copy.deepcopy(loaded.report)
    assert not any("never run" in line for line in joint_lines(report))
    report["joint"]["seg+depth"]["cycles"] = 10**9
    first, second, *rest = joint_lines(report)
    assert "1,000,000,000 cycles together" in first and "less" not in first
    assert "it is never run" in second and len(rest) == 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--together", "seg"), "several tasks, up to 64 frames of one, or both"),
        (("--together", "seg,night"), "no task 'night' to compute together"),
        (("--together", "seg*2", "--frames", "2"), "seg*2 is to be computed together twice"),
        (("--together", "seg,depth*64"), "has 128 outputs, a program has 32 at most"),
        (("--frames", "30"), "of 30 frames together"),
    ],
)
def test_other_requests_are_refused(
    words: tuple[str, ...], why: str, small_models: tuple[Path, list[str]]
) -> None:
    folder, models = small_models
    done = moesaic(
        "compile", *models, "--target", "nano", "--calibrate", folder / "samples.npz",
        "-o", folder / "refused", *words,
    )  # fmt: skip
    assert done.code == 2 and why in " ".join(done.err.split())
    assert not (folder / "refused").exists()
