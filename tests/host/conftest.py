"""A bundle of two small tasks, and devices that can be told to fail."""

from __future__ import annotations

import pytest

from moesaic.spec.arch import PRESETS
from moesaic.spec.bundle import Bundle
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.faulty_devices import KINDS, FaultySimulation, draw
from tests.host.known_devices import know_devices
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
    know_devices(monkeypatch, **KINDS)
