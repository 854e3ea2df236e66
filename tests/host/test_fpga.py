"""The device `fpga` on files that look like a board: the same driver, on the platform for Linux."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, Session
from moesaic.host.fpga import FpgaDevice
from moesaic.host.pool import DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.faulty_devices import draw
from tests.host.uio_files import UioFiles
from tests.outputs import only_output

CLOCK_HZ = 1_000_000  # slow, so that no time-out comes before the thread that plays the hardware


@pytest.fixture
def board(tmp_path: Path, two_tasks: Bundle) -> Iterator[UioFiles]:
    files = UioFiles(tmp_path, two_tasks)
    yield files
    files.close()


def options(board: UioFiles, **more: Any) -> dict[str, Any]:
    return {
        "paths": board.paths,
        "interrupt": board.interrupt.fileno(),
        "clock_hz": CLOCK_HZ,
        "watchdog_cycles": 10 * CLOCK_HZ,
        **more,
    }


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_both_tasks_run_and_nothing_is_left_open(board: UioFiles, two_tasks: Bundle) -> None:
    before = open_files()
    with Session(two_tasks, ["fpga"], {"fpga": options(board)}) as session:
        for number, task in enumerate(("seg", "depth", "seg", "depth")):
            inputs, codes = draw(two_tasks, task, 40 + number)
            answer = session.run(None, inputs, task=task)
            expected = only_output(two_tasks.graphs[task], codes)
            np.testing.assert_array_equal(answer["y"], expected)
            assert answer.device == "fpga"
    assert board.peek("IRQ_ENABLE") == 0
    assert open_files() == before


def test_frame_that_hangs_is_run_by_the_next_device(board: UioFiles, two_tasks: Bundle) -> None:
    board.hangs = True
    short = options(board, watchdog_cycles=1000)
    with Session(two_tasks, ["fpga", "cpu"], {"fpga": short}, pause_seconds=60) as session:
        inputs, codes = draw(two_tasks, "seg", 50)
        answer = session.run(inputs, task="seg")
        expected = only_output(two_tasks.graphs["seg"], codes)
        np.testing.assert_array_equal(answer["y"], expected)
        assert answer.device == "cpu"
        assert "did not end in time" in session.placement()[0].reason


def test_second_process_is_told_that_the_device_is_in_use(
    board: UioFiles, two_tasks: Bundle, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from moesaic.host.fpga import UioPaths, UioPlatform\n"
        "try:\n"
        "    UioPlatform(UioPaths(**eval(sys.argv[1])), 1000, 'uncached', None).close()\n"
        "    print('taken')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, repr(vars(board.paths))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with Session(two_tasks, ["fpga"], {"fpga": options(board)}) as session:
        assert "DeviceError" in (said := other()) and "another process uses" in said
        inputs, codes = draw(two_tasks, "depth", 51)  # the first one goes on undisturbed
        expected = only_output(two_tasks.graphs["depth"], codes)
        np.testing.assert_array_equal(session.run(inputs, task="depth")["y"], expected)
    assert other() == "taken\n"


def test_what_is_wrong_with_the_board_is_said(board: UioFiles, two_tasks: Bundle) -> None:
    before = open_files()
    board.poke("ID", 0xFFFFFFFF)
    with pytest.raises(DeviceError, match="no accelerator answers"):
        FpgaDevice(two_tasks, **options(board))
    board.poke("ID", 0x4D4F4553)
    board.poke("VERSION", 99)
    with pytest.raises(DeviceError, match="another version"):
        FpgaDevice(two_tasks, **options(board))
    with pytest.raises(UserError, match="mode must be one of"):
        FpgaDevice(two_tasks, **options(board, mode="fast"))
    Path(board.paths.memory_attributes, "size").write_text("0x1000")  # cut short: no newline
    with pytest.raises(DeviceError, match="size of the memory"):
        FpgaDevice(two_tasks, **options(board))
    Path(board.paths.memory).unlink()
    Path(board.paths.memory_attributes, "size").write_text("0x400000\n")
    with pytest.raises(DeviceUnavailable, match="No such file"):
        FpgaDevice(two_tasks, **options(board))
    assert open_files() == before


def test_coherent_mode_needs_masters_that_snoop(board: UioFiles, two_tasks: Bundle) -> None:
    """With others it would read stale data and say nothing."""
    with pytest.raises(UserError, match="nano, is not coherent; use mode uncached or cached"):
        FpgaDevice(two_tasks, **options(board, mode="coherent"))
    snooping = dataclasses.replace(two_tasks.arch, coherent=True)
    other = dataclasses.replace(two_tasks, arch=snooping)
    with pytest.raises(UserError, match="architecture"):  # past the mode, to the hash
        FpgaDevice(other, **options(board, mode="coherent"))


def test_machine_without_a_board_says_so(two_tasks: Bundle) -> None:
    with pytest.raises(UserError, match="no UIO device is called 'moesaic'"):
        Session(two_tasks, ["fpga"])
    with Session(two_tasks, ["fpga", "cpu"]) as session:
        assert session.device.name == "cpu"
