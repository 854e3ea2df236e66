"""Where the driver lays the weights of each port: in banks of their own, whatever their size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.host.driver import Driver
from moesaic.host.platform import TransportPlatform
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import WEIGHT_ROUND_BYTES, offset, weight_step
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.e2e.bundles import expected_codes, make_bundle
from tests.host.register_mock import RegisterMock

NANO = PRESETS["nano"]
FOUR = replace(NANO, weight_ports=4, weight_port_bytes=8, data_port_bytes=8, output_ports=4)
LARGE = Shape(channels=96, heads=2, head_dim=48, value_dim=48, experts=12, expert_hidden=200)


def starts(mock: RegisterMock, ports: int) -> list[int]:
    """Addresses of the ports' windows."""
    places = [offset(f"WEIGHT{port}_BASE_LO") for port in range(ports)]
    return [mock.read_register(low) | mock.read_register(low + 4) << 32 for low in places]


@pytest.mark.parametrize(
    ("arch", "shape", "rounds"), [(NANO, Shape(), 0), (FOUR, Shape(), 0), (FOUR, LARGE, 1)]
)
def test_ports_are_a_step_apart_modulo_a_round(arch: ArchConfig, shape: Shape, rounds: int) -> None:
    graph = random_intgraph(shape, 1)
    bundle = make_bundle({"task": graph}, arch)
    section, step = len(bundle.weights) // arch.weight_ports, weight_step(arch.weight_ports)
    assert section // WEIGHT_ROUND_BYTES >= rounds
    mock = RegisterMock(bundle)
    driver = Driver(TransportPlatform(mock), bundle)
    patches = random_patches(graph, 1, 2)
    found = driver.run("task", patches[0])
    np.testing.assert_array_equal(found.codes, expected_codes(graph, patches)[0])
    begins = starts(mock, arch.weight_ports)
    distances = set(np.diff(begins).tolist())
    (distance,) = distances
    assert distance % WEIGHT_ROUND_BYTES == step
    assert section <= distance < section + step + WEIGHT_ROUND_BYTES
