"""`moesaic estimate --frames`: several frames of a task in one program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesaic.spec.memory import COMPARED_SHARES
from tests.cli.here import moesaic_here
from tests.compiler.onnx_vit import Vit


def test_frames_together_share_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(Vit().save(tmp_path))

    def estimate(*words: str) -> dict[str, Any]:
        done = moesaic_here(
            capsys, monkeypatch, "estimate", path, "--target", "nano", "--json", *words
        )
        report = json.loads(done.out)
        (figures,) = report["tasks"].values()
        assert done.code == 0 and figures["frames"] == int(words[-1] if words else 1)
        return dict(report["tasks"]["default"])

    one, two = estimate(), estimate("--frames", "2")
    assert one["frame_cycles"] == one["cycles"] and two["frame_cycles"] == two["cycles"] / 2
    assert one["cycles"] < two["cycles"] < 2 * one["cycles"] and two["macs"] == 2 * one["macs"]
    assert two["weight_bytes"] < 1.5 * one["weight_bytes"] and two["ms"] < one["ms"]
    for figures in (one, two):  # one source: the first of the shares is what single figures assume
        shares = figures["dram_shares"]
        assert [found["share"] for found in shares] == list(COMPARED_SHARES)
        assert shares[0]["frame_cycles"] == figures["frame_cycles"]
        assert shares[0]["ms"] == figures["ms"] < shares[1]["ms"] < shares[2]["ms"]
        assert shares[0]["dram_given_gb_s"] == figures["dram_given_gb_s"]
    shown = moesaic_here(
        capsys, monkeypatch, "estimate", path, "--target", "nano", "--frames", "2"
    ).out
    assert "default, 2 frames on nano" in shown and "a frame" in shown
    last = two["dram_shares"][-1]
    assert f"45% ({last['dram_given_gb_s']:.1f} GB/s) {last['frame_cycles']:,.0f} cycles" in shown
    energy = two["energy"]  # of one of them: less weight traffic, and less time
    assert 0 < energy["mj_low"] < energy["mj"] < energy["mj_high"]
    assert energy["mj"] < one["energy"]["mj"]
    assert energy["mj_of"]["DRAM"] < one["energy"]["mj_of"]["DRAM"]
    assert f"{energy['mj']:.3g} mJ a frame by a model, nothing was measured" in shown


def test_no_energy_where_no_figures_are_public(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(Vit().save(tmp_path))
    words = ("estimate", path, "--targets", "nano,ecp5-85", "--json")
    report = json.loads(moesaic_here(capsys, monkeypatch, *words).out)
    some, none = (entry["tasks"]["default"]["energy"] for entry in report["targets"])
    assert some["source"] == "modelled, not measured" and none is None
    words = ("estimate", path, "--target", "ecp5-85")
    assert "default: no energy: no power figures" in moesaic_here(capsys, monkeypatch, *words).out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--targets", "all", "--frames", "2"), "--frames is for one --target"),
        (("--target", "nano", "--frames", "0"), "greater than or equal to 1"),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    words: tuple[str, ...],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = moesaic_here(capsys, monkeypatch, "estimate", str(Vit().save(tmp_path)), *words)
    assert done.code == 2 and why in done.err.replace("\n", " ")
