"""Runs cocotb benches on Verilated units. The executable is built once per Verilog text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path

import find_libpython
from cocotb_tools import config as cocotb_config
from cocotb_tools.runner import get_results

from moesaic.sim import verilator
from moesaic.sim.progress import progress
from moesaic.spec.cache import cached, content_key
from moesaic.spec.errors import UserError

# Python in every cycle is the bottleneck: a fast build beats a fast simulator.
_OPTIMISE = "-O1"
_LOG_TAIL_LINES = 80


class BenchFailure(AssertionError):
    """A cocotb test failed, or none ran; the message holds the end of the log."""


def build_executable(verilog: str, toplevel: str, *, waves: bool = False) -> Path:
    """Build module ``toplevel`` of the Verilog text for cocotb, or find it in the cache."""
    flags = ["-O3", "--vpi", "--public-flat-rw", *(["--trace-vcd"] if waves else [])]
    defines = [f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}", "-DVM_TRACE_FST=0"]
    main = cocotb_config.share_dir / "lib" / "verilator" / "verilator.cpp"
    key = content_key(
        [verilator.toolchain().identity, _OPTIMISE, toplevel, verilog, main.read_text(), *flags]
    )

    def build(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        model = verilator.verilate(verilog, toplevel, work, flags)
        includes = verilator.include_flags(work, defines)
        runtime = verilator.runtime_files(work)
        sources = [*verilator.lump(model, work), main]

        def source_flags(source: Path) -> list[str]:
            return ["-O0" if "Slow" in source.name else _OPTIMISE, *includes]

        with progress(f"Building the bench of {toplevel}", len(sources)) as advance:
            objects = verilator.compile_objects(sources, work, source_flags, advance)
            archive = verilator.runtime_library(runtime, defines, _OPTIMISE)
        libraries = cocotb_config.libs_dir
        link: list[object] = [verilator.toolchain().compiler, "-o", "bench", *objects]
        link += [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lcocotbvpi_verilator"]
        link += ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive"]
        verilator.run_tool([*link, "-pthread", "-latomic"], folder, "linking the bench")
        shutil.rmtree(work)

    return cached("verilator-bench", key, build) / "bench"


def run_cocotb(
    verilog: str,
    toplevel: str,
    test_module: str,
    *,
    testcase: str | None = None,
    parameters: Mapping[str, object] | None = None,
    seed: int = 1,
    power_up_seed: int = 0,
    waves: Path | None = None,
    timeout_seconds: float = 600.0,
) -> int:
    """Run the cocotb tests of ``test_module`` against module ``toplevel`` of the Verilog text.

    Parameters
    ----------
    test_module:
        Import name, with this process's ``sys.path``; from pytest ``tests.<folder>.<file>``.
    testcase:
        Only this test function of the module.
    parameters:
        Reach the bench as environment variables (``os.environ["NAME"]``), so one build serves
        every sweep of backpressure and data.
    seed:
        Of the ``random`` module inside the bench.
    power_up_seed:
        If not 0, whatever the Verilog does not initialise starts random: memories, and inputs
        until the bench drives them.
    waves:
        A ``.vcd`` file to write.

    Returns the number of tests that ran. Raises BenchFailure when one failed or none ran.
    """
    libpython = find_libpython.find_libpython()
    if libpython is None:
        library = "libpython{}.{}".format(*sys.version_info)
        raise UserError(f"cocotb needs {library}.so: run `apt-get install {library}` as root")
    if util.find_spec(test_module) is None:
        raise ModuleNotFoundError(f"test_module must be importable, not {test_module!r}")
    executable = build_executable(verilog, toplevel, waves=waves is not None)
    with tempfile.TemporaryDirectory(prefix="moesaic-bench-") as folder:
        results = Path(folder) / "results.xml"
        env = os.environ | {name: str(value) for name, value in (parameters or {}).items()}
        env |= {
            "COCOTB_TEST_MODULES": test_module,
            "COCOTB_TOPLEVEL": toplevel,
            "COCOTB_RESULTS_FILE": str(results),
            "COCOTB_RANDOM_SEED": str(seed),
            "COCOTB_ANSI_OUTPUT": "0",
            "COCOTB_TRUST_INERTIAL_WRITES": "1",
            "TOPLEVEL_LANG": "verilog",
            "GPI_USERS": f"{libpython};{cocotb_config.pygpi_entry_point()}",
            "PYGPI_PYTHON_BIN": sys.executable,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        if testcase is not None:
            env["COCOTB_TESTCASE"] = testcase
        command = [str(executable)]
        if power_up_seed:
            command += ["+verilator+rand+reset+2", f"+verilator+seed+{power_up_seed}"]
        if waves is not None:
            waves.parent.mkdir(parents=True, exist_ok=True)
            command += ["--trace", "--trace-file", str(waves.resolve())]
        try:
            run = subprocess.run(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            log = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            raise BenchFailure(f"no end after {timeout_seconds} s\n{_tail(log)}") from None
        try:
            total, failed = get_results(results)
        except RuntimeError:
            raise BenchFailure(f"{test_module} wrote no results\n{_tail(run.stdout)}") from None
        if failed or total == 0 or run.returncode != 0:
            summary = f"{test_module}: {failed} of {total} tests failed"
            raise BenchFailure(f"{summary} (exit status {run.returncode})\n{_tail(run.stdout)}")
        return total


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-_LOG_TAIL_LINES:])
