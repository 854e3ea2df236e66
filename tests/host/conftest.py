"""A bundle of two small tasks, and devices that can be told to fail."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from moesaic.host import pool
from moesaic.spec.arch import PRESETS
from moesaic.spec.bundle import Bundle
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.faulty_devices import FaultySimulation, draw
from tests.host.register_mock import MockAccelerator


@pytest.fixture(scope="session")
def two_tasks() -> Bundle:
    """Random tasks ``seg`` and ``depth``, with a stored answer each for self-checks."""
    graphs = {"seg": random_intgraph(Shape(), seed=1), "depth": random_intgraph(Shape(), seed=2)}
    made = make_bundle(graphs, PRESETS["nano"])
    for task in graphs:
        x, codes = draw(made, task, 0)
        made.samples.update({f"{task}.input": x["x"], f"{task}.codes": codes})
    return made


@pytest.fixture
def faulty_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions know the devices ``mock`` and ``sim`` that fail when told to, and ``cpu``."""
    MockAccelerator.opened, FaultySimulation.opened = [], []
    kinds: dict[str, Any] = {"mock": MockAccelerator, "sim": FaultySimulation}
    points = [EntryPoint(name, f"x:{name}", pool.DEVICE_GROUP) for name in kinds]
    points.append(EntryPoint("cpu", "moesaic.host.torch_devices:CpuDevice", pool.DEVICE_GROUP))
    load = EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda p: kinds.get(p.name) or load(p))
    monkeypatch.setattr(pool, "entry_points", lambda group: points)
