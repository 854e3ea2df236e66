"""The training loop: what it shares is what one task after the other computes, and it resumes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from moesaic.models.config import M3ViTConfig
from moesaic.models.losses import BALANCE_WEIGHT, balance_loss, task_loss
from moesaic.models.m3vit import M3ViT, initialise, random_model
from moesaic.models.plan import Plan
from moesaic.models.scenes import SceneBatch, make_batch, normalise
from moesaic.models.trainer import HISTORY_STEPS, Trainer

SMALL = M3ViTConfig(height=32, width=64, dim=32, heads=2, depth=4, experts=4, expert_hidden=32)
MODELS = {
    "alternate": SMALL,
    "all": dataclasses.replace(SMALL, moe_layers="all", depth=2, class_token=False),
    "none": dataclasses.replace(SMALL, moe_layers="none", depth=2),
    "three tasks": dataclasses.replace(SMALL, tasks=(("seg", 7), ("depth", 1), ("far", 1))),
    "decoder": dataclasses.replace(SMALL, depth=2, head="upsample", head_width=4),
}
PLAN = Plan(steps=8, batch=2, coarse_share=0.3, joint_share=0.6, seed=3)


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return make_batch(range(7), SMALL.height, SMALL.width)


def fresh(config: M3ViTConfig = SMALL) -> M3ViT:
    model = M3ViT(config)
    initialise(model, 1)
    return model


def one_after_the_other(
    model: M3ViT, image: torch.Tensor, seg: torch.Tensor, depth: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients when each task runs the whole network by itself."""
    model.zero_grad(set_to_none=True)
    for task in model.config.task_names:
        loss = task_loss(model(image, task), seg, depth, task)
        (loss + BALANCE_WEIGHT * balance_loss(model)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_whole_passes(name: str, scenes: SceneBatch) -> None:
    model = random_model(MODELS[name], 2).train()
    trainer = Trainer(model, scenes, Plan(batch=3))
    batch = trainer._draw()
    expected = one_after_the_other(model, *batch)
    model.zero_grad(set_to_none=True)
    trainer._backward(*batch)
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[parameter], atol=1e-5, rtol=1e-4)


def test_joint_gradients_are_those_of_tasks_with_equal_gates(scenes: SceneBatch) -> None:
    model = random_model(SMALL, 2).train()
    trainer = Trainer(model, scenes, Plan(batch=3, joint_share=1.0))
    batch = trainer._draw()
    for layer in model.moe_layers():
        layer.gates["depth"].load_state_dict(layer.gates["seg"].state_dict())
    expected = one_after_the_other(model, *batch)
    model.zero_grad(set_to_none=True)
    trainer._backward(*batch)
    for name, value in model.named_parameters():
        if ".gates.depth" in name:
            assert value.grad is None
            continue
        if ".gates.seg" in name:  # it stands for both
            expected[name] += expected[name.replace("seg", "depth")]
        torch.testing.assert_close(value.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_gates_part_as_equals_and_then_differ(scenes: SceneBatch) -> None:
    model = fresh()
    trainer = Trainer(model, scenes, Plan(steps=8, batch=2, joint_share=0.5))

    def gates(task: str) -> torch.Tensor:
        return torch.stack([layer.gates[task].weight.detach() for layer in model.moe_layers()])

    start = gates("depth")
    trainer.run(lambda _: trainer.step < 4)
    assert torch.equal(gates("depth"), start) and not torch.equal(gates("seg"), start)
    shared = gates("seg")
    trainer._part_gates()  # what the next step begins with
    assert torch.equal(gates("depth"), shared)
    assert trainer.run() and trainer.step == 8
    assert not torch.equal(gates("depth"), gates("seg"))


def test_a_run_that_ends_with_joint_gates_leaves_them_to_every_task(scenes: SceneBatch) -> None:
    trainer = Trainer(fresh(), scenes, Plan(steps=3, batch=2, joint_share=1.0))
    assert trainer.run()
    for layer in trainer.model.moe_layers():
        assert torch.equal(layer.gates["depth"].weight, layer.gates["seg"].weight)


def test_coarse_batches_are_the_same_scenes_at_half_the_size(scenes: SceneBatch) -> None:
    model = fresh()
    trainer = Trainer(model, scenes, Plan(steps=2, batch=1, coarse_share=0.5))
    image, seg, depth = trainer._draw()
    assert image.shape == (4, 3, 16, 32) and seg.shape == (4, 16, 32)
    assert depth.shape == (4, 1, 16, 32)
    rng = np.random.default_rng(0)
    picks = rng.permutation(7)[:4]
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
    whole = normalise(scenes.rgb[picks][..., flip])
    by_hand = sum(whole[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(image, torch.from_numpy(by_hand))
    assert np.array_equal(seg.numpy(), scenes.seg[picks][..., flip][..., ::2, ::2])
    assert np.array_equal(depth.numpy(), scenes.depth[picks][..., flip][..., ::2, ::2])
    trainer.step = 1
    assert trainer._draw()[0].shape == (1, 3, 32, 64)


@torch.no_grad()
def test_a_smaller_image_gets_the_mean_of_its_positions() -> None:
    model = random_model(SMALL, 4)
    position = model.position[0, 1:].reshape(2, 4, 32)
    mean = (position[0, ::2] + position[0, 1::2] + position[1, ::2] + position[1, 1::2]) / 4
    found = model._positions((1, 2))[0]
    torch.testing.assert_close(found, torch.cat([model.position[0, :1], mean]))
    for task, channels in SMALL.tasks:
        assert model(torch.zeros(2, 3, 16, 32), task).shape == (2, channels, 16, 32)


@pytest.mark.parametrize("tokens", [1, 7])
def test_grouped_experts_have_the_gradients_of_the_dense_form(tokens: int) -> None:
    """With one token, two of four experts have none to work on."""
    layer = random_model(SMALL, 7).moe_layers()[0]
    x = torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert tokens > 1 or len(layer.route(x, "seg")[1].unique()) == 2
    found = []
    for training in (False, True):
        layer.train(training)
        layer.zero_grad(set_to_none=False)
        x.grad = None
        layer(x, "seg").square().sum().backward()
        own = [p.grad.clone() for n, p in layer.named_parameters() if "depth" not in n]
        found.append([x.grad, *own])
    for dense, grouped in zip(*found, strict=True):
        torch.testing.assert_close(grouped, dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_a_resumed_run_is_the_uninterrupted_one(
    stop: int, scenes: SceneBatch, tmp_path: Path
) -> None:
    """Bit for bit: at half resolution, with joint gates, and after they have parted."""
    whole = Trainer(fresh(), scenes, PLAN)
    assert whole.run()
    first = Trainer(fresh(), scenes, PLAN)
    assert not first.run(lambda _: first.step < stop)
    first.save(tmp_path / "run.state")
    second = Trainer(random_model(SMALL, 9), scenes, PLAN)
    second.restore(tmp_path / "run.state")
    assert second.step == stop and second.seconds == first.seconds > 0
    assert second.run() and second.step == PLAN.steps
    expected = whole.model.state_dict()
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not (tmp_path / "run.state.part").exists()


def test_history_survives_a_resumption(scenes: SceneBatch, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, dim=8, depth=2, expert_hidden=4)
    plan = Plan(steps=HISTORY_STEPS + 1, batch=1)
    losses = []
    first = Trainer(fresh(config), scenes, plan)
    first.run(lambda now: losses.append(now["seg"]) or first.step < 9)
    first.save(tmp_path / "run.state")
    second = Trainer(fresh(config), scenes, plan)
    second.restore(tmp_path / "run.state")
    second.run(lambda now: losses.append(now["seg"]) or True)
    (entry,) = second.history
    assert entry["step"] == HISTORY_STEPS and entry["height"] == 32
    assert entry["seg"] == pytest.approx(np.mean(losses[:HISTORY_STEPS]), abs=1e-4)


def test_a_budget_of_time_ends_the_run(scenes: SceneBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.5)  # half a second a step, whatever the machine does beside it
    monkeypatch.setattr("moesaic.models.trainer.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("moesaic.models.trainer.time.process_time", lambda: next(clock))
    trainer = Trainer(fresh(), scenes, Plan(seconds=6.0, batch=1, coarse_share=0.5))
    sizes = []
    assert trainer.run(lambda _: sizes.append(trainer._coarse) or True)
    assert trainer.seconds == 6.0 and trainer.step == len(sizes) == 6
    assert sizes == [True] * 2 + [False] * 4
    assert not trainer.model.training


def test_a_suspended_run_does_not_use_up_its_budget(
    scenes: SceneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(fresh(), scenes, Plan(seconds=100.0, batch=1))
    clock, processor = iter([0.0, 3.0, 5.0, 995.0]), iter([0.0, 2.5, 3.0, 5.0])
    monkeypatch.setattr("moesaic.models.trainer.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("moesaic.models.trainer.time.process_time", lambda: next(processor))
    seconds = []
    assert not trainer.run(lambda _: seconds.append(trainer.seconds) or len(seconds) < 2)
    assert seconds == [3.0, 23.0]  # 3 s of work; 990 s in which the processor worked for 2 s


def test_divergence_is_said(scenes: SceneBatch) -> None:
    trainer = Trainer(fresh(), scenes, Plan(steps=5, batch=1))
    with torch.no_grad():
        trainer.model.patch_embed.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="losses of step 0 must be finite.*lower peak rate"):
        trainer.run()


def test_state_of_another_run_is_refused(scenes: SceneBatch, tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    Trainer(fresh(), scenes, PLAN).save(path)
    with pytest.raises(ValueError, match="run.state must be of the same seed .*3"):
        Trainer(fresh(), scenes, dataclasses.replace(PLAN, seed=4)).restore(path)
    other = fresh(dataclasses.replace(SMALL, experts=5))
    with pytest.raises(ValueError, match="run.state must be of the same config"):
        Trainer(other, scenes, PLAN).restore(path)
    fewer = SceneBatch(scenes.rgb[:3], scenes.seg[:3], scenes.depth[:3])
    with pytest.raises(ValueError, match="run.state must be of the same scenes .* 3, not 7"):
        Trainer(fresh(), fewer, PLAN).restore(path)


@pytest.mark.parametrize("content", [None, b"", b"no state"])
def test_a_file_that_is_no_state_is_refused(
    content: bytes | None, scenes: SceneBatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.state"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="run.state must be a file of models.train"):
        Trainer(fresh(), scenes, PLAN).restore(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coarse_share": 1.5}, r"coarse_share must lie in 0..1, not 1.5"),
        ({"joint_share": -0.1}, r"joint_share must lie in 0..1, not -0.1"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"seconds": 0.0}, "seconds must be positive, not 0.0"),
    ],
)
def test_plan_refuses(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**change)


def test_half_the_resolution_needs_an_even_grid(scenes: SceneBatch) -> None:
    model = M3ViT(dataclasses.replace(SMALL, height=16))
    with pytest.raises(ValueError, match=r"coarse_share must be 0 for a grid of \(1, 4\)"):
        Trainer(model, scenes, Plan(coarse_share=0.1))
