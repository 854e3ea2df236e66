"""Tasks computed together, and frames, whose fronts and ends the host computes: the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moesaic.compiler import compile
from moesaic.compiler.together import check_fronts, read_requests
from moesaic.host import Session
from moesaic.models.tracing import INPUT_NAME
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from tests.compiler.fronts import CHANNELS, FRONTS, IMAGE, Fronted, write


class Summed(nn.Module):
    """A head whose end the accelerator does not take."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x).cumsum(1)
        return result


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``seg`` and ``depth`` share all but their heads, ``night`` has a front of its own."""
    folder = tmp_path_factory.mktemp("fronts")
    torch.manual_seed(1)
    front = FRONTS["convolutions"]()
    made = {"seg": Fronted(front, Summed(5)), "depth": Fronted(front, Summed(3))}
    made["night"] = Fronted(FRONTS["convolutions"]())
    for network in made.values():
        network.blocks, network.norm = made["seg"].blocks, made["seg"].norm
    for task, network in made.items():
        write(network, folder / f"{task}.onnx")
    return {task: folder / f"{task}.onnx" for task in made}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, IMAGE, IMAGE)).astype(np.float32)


def test_together_gives_the_bits_of_one_by_one(models: dict[str, Path], tmp_path: Path) -> None:
    both = {task: models[task] for task in ("seg", "depth")}
    samples, place = {INPUT_NAME: images(8)}, tmp_path / "bundle"
    compile(both, "nano", samples, place, partition=True, together=["seg,depth*2"])
    bundle = load_bundle(place)
    assert set(bundle.fronts) == set(bundle.host_parts) == set(both)
    given = {INPUT_NAME: images(2)}
    with Session(bundle, "sim") as sim, Session(bundle, "cpu") as cpu:
        found = sim.run_many(given, list(both))
        # All counters are those of one run: the joint program's.
        runs = {tuple(c.values()) for f in found.values() for c in f.result.counters}
        alone = sim.run(given, task="seg").result.counters
        assert len(runs) == 1 and tuple(alone[0].values()) not in runs
        for task in both:
            for frame in range(2):
                one = cpu.run({INPUT_NAME: given[INPUT_NAME][frame : frame + 1]}, task=task)
                for name, output in one.items():
                    np.testing.assert_array_equal(found[task][name][frame], output[0])
                    assert not np.array_equal(found[task][name][0], found[task][name][1])


def test_other_fronts_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    samples, place = {INPUT_NAME: images(8)}, tmp_path / "bundle"
    with pytest.raises(UserError, match="tasks seg and night can't be computed together: the host"):
        compile(models, "nano", samples, place, partition=True, together=["seg,depth,night"])
    assert not place.exists()
    requests = read_requests(["seg,night"], list(models))
    check_fronts(requests, {"seg": b"1", "night": b"1"})
    with pytest.raises(UserError, match="run them one by one"):
        check_fronts(requests, {"night": b"1"})
