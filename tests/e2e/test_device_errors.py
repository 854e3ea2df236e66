"""Programs and buses gone wrong: a bounded end with the right error, and the next frame is good."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from moesaic.host.driver import Driver
from moesaic.host.failures import DeviceError
from moesaic.host.platform import TransportPlatform
from moesaic.sim.device import Fault
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec import isa, registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches

from .bundles import expected_codes, make_bundle

LIMIT_CYCLES = 200_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])


def with_program(bundle: Bundle, change: Callable[[bytearray], None]) -> Bundle:
    program = bytearray(bundle.programs["task"])
    change(program)
    return dataclasses.replace(bundle, programs={"task": bytes(program)})


def flip(byte: int) -> Callable[[bytearray], None]:
    def change(program: bytearray) -> None:
        program[byte] ^= 0x10

    return change


def drop_end(program: bytearray) -> None:
    del program[-isa.INSTRUCTION_BYTES :]


def far_stream(program: bytearray) -> None:
    raw = isa.encode(isa.Opcode.STREAM, offset=1 << 20, words=8)
    program[0:0] = raw


def lost_token(program: bytearray) -> None:
    raw = isa.encode(isa.Opcode.LOAD, words=1, window=isa.Window.INPUT, wait=1 << isa.Unit.STORE)
    program[0:0] = raw


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (flip(0), "BAD_INSTRUCTION"),
        (flip(5 * isa.INSTRUCTION_BYTES + 9), "BAD_INSTRUCTION"),
        (drop_end, "PROGRAM_OVERRUN"),
        (far_stream, "WINDOW"),
        (lost_token, "WATCHDOG"),
    ],
)
def test_bad_program_ends_in_an_error(
    bundle: Bundle, change: Callable[[bytearray], None], error: str
) -> None:
    graph = bundle.graphs["task"]
    patches = random_patches(graph, 1)
    device = SimulatedAccelerator(with_program(bundle, change), watchdog_cycles=LIMIT_CYCLES)
    try:
        with pytest.raises(DeviceError, match=error):
            device.run("task", patches)
        assert device.transport.cycles < 2 * LIMIT_CYCLES
        # The same accelerator runs the good program afterwards.
        device.driver = Driver(TransportPlatform(device.transport), bundle, LIMIT_CYCLES)
        np.testing.assert_array_equal(
            device.run("task", patches).codes, expected_codes(graph, patches)
        )
    finally:
        device.close()


@pytest.mark.parametrize("window", ["program", "constant", "input", "output0"])
def test_bus_error_ends_the_frame(bundle: Bundle, window: str) -> None:
    graph = bundle.graphs["task"]
    patches = random_patches(graph, 1)
    device = SimulatedAccelerator(bundle, watchdog_cycles=LIMIT_CYCLES)
    try:
        device.transport.inject_fault(Fault.ERROR, *device.driver.windows("task")[window])
        with pytest.raises(DeviceError, match="BUS"):
            device.run("task", patches)
        device.transport.clear_faults()
        np.testing.assert_array_equal(
            device.run("task", patches).codes, expected_codes(graph, patches)
        )
    finally:
        device.close()


@pytest.mark.parametrize("error", ["BUS", "WINDOW"])
@pytest.mark.parametrize("port", [0, 1])
def test_error_on_one_output_port_ends_the_frame(
    port: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever port fails, the other one does not keep the frame from ending."""
    arch = dataclasses.replace(PRESETS["nano"], output_ports=2)
    graph = random_intgraph(Shape(), seed=1)
    patches = random_patches(graph, 1)
    device = SimulatedAccelerator(make_bundle({"task": graph}, arch), watchdog_cycles=LIMIT_CYCLES)
    try:
        address, size = device.driver.windows("task")[f"output{port}"]
        with monkeypatch.context() as patch:
            if error == "BUS":
                device.transport.inject_fault(Fault.ERROR, address, size)
            else:
                write = device.transport.write_register
                place = registers.offset(f"OUTPUT{port or ''}_SIZE")
                short = size - arch.data_port_bytes
                patch.setattr(
                    device.transport,
                    "write_register",
                    lambda offset, value: write(offset, short if offset == place else value),
                )
            with pytest.raises(DeviceError, match=error):
                device.run("task", patches)
        device.transport.clear_faults()
        np.testing.assert_array_equal(
            device.run("task", patches).codes, expected_codes(graph, patches)
        )
    finally:
        device.close()


def test_weight_bus_error_ends_the_frame(bundle: Bundle) -> None:
    device = SimulatedAccelerator(bundle, watchdog_cycles=LIMIT_CYCLES)
    try:
        device.transport.inject_fault(Fault.ERROR, *device.driver.windows("task")["weight1"])
        with pytest.raises(DeviceError, match="BUS"):
            device.run("task", random_patches(bundle.graphs["task"], 1))
    finally:
        device.close()


def test_bundle_of_another_architecture_is_refused(bundle: Bundle) -> None:
    from moesaic.sim.build import accelerator_verilog

    other = dataclasses.replace(PRESETS["nano"], ring_bytes=32 << 10)
    foreign = make_bundle(bundle.graphs, other)
    with pytest.raises(UserError, match="compile for the accelerator"):
        SimulatedAccelerator(foreign, verilog=accelerator_verilog(PRESETS["nano"]))
