"""Hardware gone wrong beneath a session, at the registers and in the RTL: the next device answers
with the same bits, and what can be used again is used again.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, Session
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.faulty_devices import FaultySimulation, draw, inject
from tests.host.register_mock import FAULTS, MockAccelerator
from tests.outputs import only_output

pytestmark = pytest.mark.usefixtures("faulty_devices")

REASONS = {
    "bus error": "BUS",
    "watchdog": "WATCHDOG",
    "hang": "did not end in time|WATCHDOG|stays busy",
    "all ones": "is gone",
    "vanished": "vanished",
    "other bitstream": "is gone",
}


@pytest.mark.parametrize("kind", ["mock", "sim"])
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "lost interrupt"])
def test_frame_in_flight_is_run_elsewhere_and_the_device_comes_back(
    two_tasks: Bundle, kind: str, fault: str
) -> None:
    opened: list[Any] = MockAccelerator.opened if kind == "mock" else FaultySimulation.opened
    with Session(two_tasks, [kind, "cpu"], pause_seconds=0.0) as session:
        for number, task in enumerate(("seg", "depth", "seg")):
            inputs, codes = draw(two_tasks, task, 10 + number)
            if number == 1:
                inject(kind, fault)
            answer = session.run(inputs, task=task)
            expected = only_output(two_tasks.graphs[task], codes)
            np.testing.assert_array_equal(answer["y"], expected)
            assert answer.device == ("cpu" if number == 1 else kind)
            if number == 1:
                place = session.placement()[0]
                assert place.state == "passed over"
                assert re.search(REASONS[fault], place.reason)
    assert len(opened) == 2  # dropped once, opened again


@pytest.mark.parametrize("kind", ["mock", "sim"])
def test_lost_interrupt_loses_no_frame(two_tasks: Bundle, kind: str) -> None:
    with Session(two_tasks, [kind], strict=True) as session:
        inputs, codes = draw(two_tasks, "seg", 3)
        inject(kind, "lost interrupt")
        answer = session.run(None, inputs, task="seg")
        expected = only_output(two_tasks.graphs["seg"], codes)
        np.testing.assert_array_equal(answer["y"], expected)
        assert answer.device == kind
        device: Any = session.device
        assert device.driver.lost_interrupts == 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "lost interrupt"])
def test_strict_session_says_what_happened(two_tasks: Bundle, fault: str) -> None:
    with Session(two_tasks, ["mock", "cpu"], strict=True) as session:
        inputs, _ = draw(two_tasks, "seg", 4)
        inject("mock", fault)
        with pytest.raises(DeviceError, match=REASONS[fault]):
            session.run(inputs, task="seg")


def test_device_that_computes_wrongly_is_not_taken_back(two_tasks: Bundle) -> None:
    with Session(two_tasks, ["mock", "cpu"], pause_seconds=0.0) as session:
        inputs, codes = draw(two_tasks, "depth", 5)
        inject("mock", "bus error")
        assert session.run(inputs, task="depth").device == "cpu"
        make = MockAccelerator.__init__

        def spoiled(self: MockAccelerator, given: Bundle) -> None:
            make(self, given)
            self.transport.fault = "wrong codes"

        MockAccelerator.__init__ = spoiled  # type: ignore[method-assign,assignment]
        try:
            answer = session.run(inputs, task="depth")
        finally:
            MockAccelerator.__init__ = make  # type: ignore[method-assign]
        assert answer.device == "cpu"
        assert session.placement()[0].reason.startswith("self-check of task")
        expected = only_output(two_tasks.graphs["depth"], codes)
        np.testing.assert_array_equal(answer["y"], expected)
        assert session.run(inputs, task="depth").device == "mock"
    assert all(device.transport.closed for device in MockAccelerator.opened)


@pytest.mark.parametrize("place", [0, 40, 300, -1])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_image_never_reaches_the_device(
    two_tasks: Bundle, place: int, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytearray(two_tasks.image)
    if damage == "flip":
        raw[place] ^= 4
    else:
        raw = raw[:place]
    monkeypatch.setattr(Bundle, "image", property(lambda self: bytes(raw)))
    written: list[int] = []
    monkeypatch.setattr(
        "tests.host.register_mock.RegisterMock.write_memory",
        lambda self, address, data: written.append(address),
    )
    with pytest.raises(UserError, match="checksum|no device image"):
        Session(two_tasks, ["mock"])
    assert not written


def test_bundle_for_another_accelerator_is_refused_with_both_named(two_tasks: Bundle) -> None:
    other = dataclasses.replace(
        two_tasks, arch=dataclasses.replace(two_tasks.arch, ring_bytes=32 << 10)
    )
    MockAccelerator(two_tasks).close()
    make = MockAccelerator.__init__

    def foreign(self: MockAccelerator, given: Bundle) -> None:
        make(self, two_tasks)
        self.driver = type(self.driver)(self.driver.platform, other)

    MockAccelerator.__init__ = foreign  # type: ignore[method-assign,assignment]
    try:
        with pytest.raises(UserError, match=f"0x{other.arch.hash:08x}.*another architecture"):
            Session(other, ["mock"])
    finally:
        MockAccelerator.__init__ = make  # type: ignore[method-assign]
