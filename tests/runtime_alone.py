"""The runtime as a board has it, numpy and nothing else: ``python -m tests.runtime_alone BUNDLE``.

Runs on every Python that the runtime is for, with the package installed. It prints ``ok``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import moesaic
from moesaic.spec.bundle import Bundle
from moesaic.spec.hostside import quantise_input
from tests.host.uio_files import UioFiles
from tests.outputs import only_output

ABSENT = ("torch", "onnx", "amaranth", "rich", "typer")
CLOCK_HZ = 1_000_000


def stored_answers(bundle: Bundle) -> dict[str, Callable[[NDArray[np.int8]], NDArray[np.int16]]]:
    """An accelerator that knows the samples of the bundle, and no other frame."""

    def answers(task: str) -> Callable[[NDArray[np.int8]], NDArray[np.int16]]:
        known = quantise_input(bundle.graphs[task], bundle.samples[f"{task}.input"])
        codes = bundle.samples[f"{task}.codes"]

        def run(frames: NDArray[np.int8]) -> NDArray[np.int16]:
            (place,) = (n for n, one in enumerate(known) if np.array_equal(one, frames[0]))
            found: NDArray[np.int16] = codes[place : place + 1]
            return found

        return run

    return {task: answers(task) for task in bundle.tasks}


def sentence_of(call: Callable[[], Any]) -> str:
    """What the user is told."""
    try:
        call()
    except moesaic.UserError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def main(path: Path) -> None:
    present = [name for name in ABSENT if find_spec(name)]
    assert not present, f"{present} are installed: this is about the runtime without them"
    bundle = moesaic.load(path)
    with tempfile.TemporaryDirectory() as folder:
        board = UioFiles(Path(folder), bundle, 1 << 24, stored_answers(bundle))
        options = {
            "paths": board.paths,
            "interrupt": board.interrupt.fileno(),
            "clock_hz": CLOCK_HZ,
            "watchdog_cycles": 10 * CLOCK_HZ,
        }
        try:
            with moesaic.Session(bundle, ["fpga"], {"fpga": options}) as session:
                for task, graph in bundle.graphs.items():
                    frames = bundle.samples[f"{task}.input"][:2]
                    answer = session.run({graph.input_name: frames}, task)
                    wanted = only_output(graph, bundle.samples[f"{task}.codes"][:2])
                    (found,) = answer.values()
                    np.testing.assert_array_equal(found.ravel(), wanted.ravel())
        finally:
            board.close()
    assert "moesaic[cpu]" in sentence_of(lambda: moesaic.Session(bundle, ["cpu"]))
    assert "moesaic[sim]" in sentence_of(lambda: moesaic.Session(bundle, ["sim"]))
    for call in (lambda: moesaic.compile, lambda: moesaic.load(Path(__file__).parent)):
        sentence_of(call)
    print("ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
