"""A bundle of two small tasks, and devices that can be told to fail."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from moesaic.spec.bundle import Bundle
from moesaic.spec.presets import PRESETS
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


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate, and is not here")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]  # type: ignore[list-item]
    subprocess.run(make, check=True, capture_output=True)
    return certificate, key
