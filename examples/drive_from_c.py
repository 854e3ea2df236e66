"""Frames from a C program, without Python between bundle and gateware.

    .venv/bin/python examples/drive_from_c.py BUNDLE FOLDER

Writes into FOLDER what the program reads, builds firmware/examples/rtl_frames.c with the driver,
and runs it on the simulated gateware. On a board the same driver takes platforms/linux_uio.c or
baremetal.c in place of linux_sim.c.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import moesaic
from moesaic.sim.build import simulator_library
from moesaic.sim.dram import CDramConfig, DramConfig
from moesaic.spec.bundle import IMAGE
from moesaic.spec.hostside import quantise_input

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "firmware" / "native" / "examples" / "rtl_frames"
MEMORY_BYTES = 1 << 26


def main(path: Path, folder: Path, frames: int = 1) -> None:
    bundle = moesaic.load(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dram").write_bytes(bytes(CDramConfig.of(DramConfig())))
    arguments: list[str | Path] = []
    for number in range(frames):
        for task, graph in bundle.graphs.items():
            given, codes = folder / f"{task}{number}.in", folder / f"{task}{number}.codes"
            sample = bundle.sample(task, "input")[number : number + 1]
            given.write_bytes(quantise_input(graph, sample).tobytes())
            codes.write_bytes(bundle.sample(task, "codes")[number].astype("<i2").tobytes())
            arguments += [task, given, codes]
    subprocess.run(["make", "-s", "-C", ROOT / "firmware", "rtl_frames"], check=True)
    command: list[str | Path] = [PROGRAM, simulator_library(bundle.arch), path / IMAGE]
    done = subprocess.run([*command, folder / "dram", str(MEMORY_BYTES), *arguments], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
