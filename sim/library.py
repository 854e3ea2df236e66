"""From the Verilog of a top to the shared library that simulates it."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Literal, get_args

from moesaic.sim import verilator
from moesaic.sim.ports import find_masters, ports_header
from moesaic.sim.probes import find_probes, probes_header
from moesaic.sim.progress import progress
from moesaic.sim.registered import register_inputs
from moesaic.spec.cache import cached, content_key
from moesaic.spec.errors import UserError

TraceFormat = Literal["vcd", "fst", "saif"]

_HARNESS = Path(__file__).resolve().parent / "harness"
# Two simulators in one process must not share symbols, hence the last three.
_OPTIMISE = "-O3 -march=native -fvisibility=hidden -fvisibility-inlines-hidden -fno-gnu-unique"
_VERILATOR_FLAGS = ("-O3", "--output-split", "8000", "--output-split-cfuncs", "2000")


@functools.cache
def trace_formats() -> tuple[TraceFormat, ...]:
    """Formats that can be built here. FST needs lz4's and zlib's headers; SAIF has no waves, but
    counts what every bit did, which tools that estimate power read."""
    found = all((Path("/usr/include") / name).exists() for name in ("lz4.h", "zlib.h"))
    return ("vcd", "saif", "fst") if found else ("vcd", "saif")


def trace_format(path: Path) -> TraceFormat:
    """The format that the file name asks for. Raises UserError when it cannot be had."""
    suffix = path.suffix.removeprefix(".")
    for known in get_args(TraceFormat):
        if suffix == known and suffix in trace_formats():
            found: TraceFormat = known
            return found
    if suffix == "fst":
        raise UserError(
            f"{path.name}: FST needs `apt-get install liblz4-dev zlib1g-dev`; or name it *.vcd"
        )
    raise UserError(f"The trace file must end in .vcd, .fst or .saif, not {path.name!r}")


def build_library(verilog: str, *, trace: TraceFormat | None = None, toplevel: str = "top") -> Path:
    """Build the simulator of module ``toplevel`` of the Verilog text, or find it in the cache.

    Returns the shared library to give to :class:`moesaic.sim.device.SimDevice`. ``trace`` makes
    a separate, slower build that can write that format.

    Raises ValueError when the top breaks the port contract, BuildError when a tool fails.
    """
    probes = find_probes(verilog, toplevel)
    header = ports_header(find_masters(verilog, toplevel), probes_header(probes))
    defines = [f"-DVM_TRACE={int(trace is not None)}"]
    defines += [f"-DVM_TRACE_{kind.upper()}={int(trace == kind)}" for kind in get_args(TraceFormat)]
    defines += ["-DVL_USER_FATAL", "-DVL_USER_STOP", "-DVL_USER_FINISH"]
    flags = [*_VERILATOR_FLAGS, *([f"--trace-{trace}"] if trace else [])]
    contents = [path.read_bytes() for path in sorted(_HARNESS.iterdir()) if path.is_file()]
    settings = [verilator.toolchain().identity, _OPTIMISE, toplevel, header, *defines, *flags]
    key = content_key([*settings, register_inputs(verilog, toplevel)[0], *contents])

    def build(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        (work / "ports.h").write_text(header)
        model = verilator.verilate(*register_inputs(verilog, toplevel), work, flags)
        sources = [*verilator.lump(model, work), _HARNESS / "harness.cpp"]
        runtime = [*verilator.runtime_files(work), _HARNESS / "dram.cpp", _HARNESS / "ddr.cpp"]
        includes = [*verilator.include_flags(work, defines), f"-I{_HARNESS}"]

        def source_flags(source: Path) -> list[str]:
            # Constructors and reset code run once: optimising them is wasted time.
            return [*_OPTIMISE.split(), *(["-O0"] if "Slow" in source.name else []), *includes]

        with progress(f"Building the simulator of {toplevel}", len(sources)) as advance:
            objects = verilator.compile_objects(sources, work, source_flags, advance)
            archive = verilator.runtime_library(runtime, defines, _OPTIMISE)
        link = [verilator.toolchain().compiler, "-shared", "-o", "libmoesaic_sim.so", *objects]
        link += [archive, "-pthread", "-latomic", "-Wl,-Bsymbolic", "-Wl,--no-undefined"]
        link += ["-llz4", "-lz"] if trace == "fst" else []
        verilator.run_tool(link, folder, "linking the simulator")
        shutil.copy(work / "verilator.log", folder)
        shutil.rmtree(work)

    return cached("verilator", key, build) / "libmoesaic_sim.so"
