"""The C driver's unit tests on every target, and that it builds for all of them."""

import ctypes
import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from moesaic.spec.image import HEADER, IMAGE_VERSION

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE, BUILD = ROOT / "firmware", ROOT / "build" / "firmware"
TOOLS = ROOT / "build" / "cross" / "bin"
NAMES = sorted(path.stem for path in (FIRMWARE / "tests").glob("test_*.c"))

EMULATORS = {
    "native": None,
    "sanitize": None,
    "sanitize32": None,
    "aarch64-linux": "qemu-aarch64-static",
    "arm-linux": "qemu-arm-static",
    "rv32imac-none": "qemu-riscv32-static",
}
COMPILERS = {
    "sanitize32": "i686-linux-gnu-gcc",
    "aarch64-linux": "aarch64-linux-gnu-gcc",
    "arm-linux": "arm-linux-gnueabihf-gcc",
    "aarch64-none": "aarch64-linux-gnu-gcc",
    "rv32imac-none": "riscv64-unknown-elf-gcc",
}
VERSIONS = [f"-{number}" for number in range(14, 20)]
CASES = [
    (target, name)
    for target in EMULATORS
    for name in NAMES
    if not (target.endswith("-none") and name.startswith("test_linux_"))
]


def command(*words: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )


def need(*tools: str) -> None:
    """Skip where a tool is neither here nor, by apt-get, to be had."""
    missing = [tool for tool in tools if not shutil.which(tool) and not (TOOLS / tool).exists()]
    if missing and not shutil.which("apt-get"):
        pytest.skip(f"no {', '.join(missing)} on PATH, and no Debian to take it from")


def need_32_bit_programs() -> None:
    """Skip where 32-bit x86 programs do not run: another processor, or a kernel without them."""
    make("-C", "firmware", "DRIVER_FOR=sanitize32", "tests")
    try:
        command(BUILD / "sanitize32" / "tests" / NAMES[0])
    except OSError as error:
        pytest.skip(f"this machine runs no 32-bit x86 programs: {error.strerror}")


@functools.cache
def make(*words: str) -> str:
    done = command("make", "-s", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("target", "name"), CASES)
def test_unit_test_passes(target: str, name: str) -> None:
    emulator = EMULATORS[target]
    if emulator:
        need(COMPILERS[target], emulator, emulator.removesuffix("-static"))
        fetched = command(".ci/cross", "qemu")
        assert fetched.returncode == 0, fetched.stderr
    if target == "sanitize32":
        need(COMPILERS[target])
        need_32_bit_programs()
    make("-C", "firmware", f"DRIVER_FOR={target}", "tests")
    runner = [TOOLS / emulator] if emulator else []
    done = command(*runner, BUILD / target / "tests" / name, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* checks, 0 failed$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("fuzzer", ["image", "bus"])
@pytest.mark.parametrize("target", ["native", "sanitize", "sanitize32"])
def test_fuzz_target_replays_its_corpus_and_mutations(target: str, fuzzer: str) -> None:
    if target == "sanitize32":
        need(COMPILERS[target])
        need_32_bit_programs()
    make("-C", "firmware", f"DRIVER_FOR={target}", "fuzzers")
    corpus = sorted((FIRMWARE / "tests" / "fuzz" / "corpus" / fuzzer).iterdir())
    done = command(BUILD / target / "fuzz" / fuzzer, "-runs=3000", *corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(corpus)} inputs, {3000 + len(corpus)} runs, 0 findings" in done.stdout


def test_images_of_the_corpus_get_past_the_version() -> None:
    """Of another one they would all be refused at once, and the fuzzer begin from nothing."""
    start = 4 + HEADER.fields["version"][1]  # type: ignore[index]
    for path in (FIRMWARE / "tests" / "fuzz" / "corpus" / "image").iterdir():
        found = int.from_bytes(path.read_bytes()[start : start + 4], "little")
        assert found == IMAGE_VERSION, path.name


def test_corpora_are_small() -> None:
    files = [p for p in (FIRMWARE / "tests" / "fuzz" / "corpus").rglob("*") if p.is_file()]
    assert files and sum(path.stat().st_size for path in files) < 8192


def need_fuzzer() -> None:
    """Skip without a clang that can fuzz: the system's, or the one that `make fuzz` has fetched."""
    if not (TOOLS / "clang").exists() and not any(
        shutil.which(f"clang{n}") for n in ("", *VERSIONS)
    ):
        pytest.skip("no clang here; `make fuzz` fetches one")
    done = command(".ci/cross", "clang")
    if done.returncode:
        pytest.skip(done.stderr)


def test_fuzz_targets_run_under_the_fuzzer(tmp_path: Path) -> None:
    """A few seconds over the corpus; `make fuzz` is the same for as long as one likes."""
    need_fuzzer()
    make("-C", "firmware", "DRIVER_FOR=fuzz", "fuzzers")
    for fuzzer in ("image", "bus"):
        corpus = FIRMWARE / "tests" / "fuzz" / "corpus" / fuzzer
        words = [
            "-runs=3000",
            "-max_total_time=10",
            "-max_len=2048",
            f"-artifact_prefix={tmp_path}/",
        ]
        done = command(BUILD / "fuzz" / "fuzz" / fuzzer, *words, tmp_path, corpus)
        assert done.returncode == 0, done.stderr
        assert re.search(r"Done [1-9]\d+ runs", done.stderr)


def test_fuzz_target_finds_a_fault(tmp_path: Path) -> None:
    """The image target, on a parser that does not bound an output."""
    broken = (FIRMWARE / "core" / "image.c").read_text()
    for bound in (
        "shape->rows > MOESAIC_MAX_ROWS",
        "words(shape->rows, shape->columns, sizes->lanes) > MOESAIC_MAX_OUTPUT_CHUNKS",
        "moesaic_output_bytes(sizes, info, 0) > UINT32_MAX",
    ):
        assert bound in broken
        broken = broken.replace(bound, "0")
    (tmp_path / "image.c").write_text(broken)
    core = [path for path in FIRMWARE.glob("core/*.c") if path.name != "image.c"]
    fuzz = [
        FIRMWARE / "tests" / "fuzz" / f"{name}.c" for name in ("image", "accelerator", "replay")
    ]
    program, headers = tmp_path / "fuzz", [f"-I{FIRMWARE}/include", f"-I{FIRMWARE}/core"]
    built = command("cc", "-O1", *headers, tmp_path / "image.c", *core, *fuzz, "-o", program)
    assert built.returncode == 0, built.stderr
    done = command(program, FIRMWARE / "tests" / "fuzz" / "corpus" / "image" / "rows-wrap")
    assert done.returncode != 0 and "does not hold" in done.stderr


def test_check_that_does_not_hold_fails_the_program(tmp_path: Path) -> None:
    source, program = tmp_path / "test.c", tmp_path / "test"
    source.write_text(
        '#include "check.h"\n'
        "static void wrong(void) { CHECK(1 + 1 == 3); }\n"
        "int main(void) { RUN(wrong); return check_result(); }\n"
    )
    built = command("cc", "-std=c99", "-I", FIRMWARE / "tests", "-o", program, source)
    assert built.returncode == 0, built.stderr
    done = command(program)
    assert done.returncode == 1 and "1 + 1 == 3" in done.stdout


def test_all_targets_build_within_their_size() -> None:
    need(*COMPILERS.values())
    lines = make("firmware").splitlines()
    sizes = {line.split()[0]: line for line in lines if " core; " in line}
    assert set(sizes) == {"native", *COMPILERS} - {"sanitize32"}
    for target, line in sizes.items():
        found = re.search(r"(\d+) +(\d+) +(\d+)  core; a moesaic_device has (\d+) bytes", line)
        assert found, line
        code, data, zeroed, handle = map(int, found.groups())
        assert 0 < code < 16 * 1024, target
        assert zeroed == 0, f"{target}: the core has global state"
        assert handle < 13 * 1024, target  # of it 4 KB are shapes: 32 outputs of each of 16 tasks
    # Only tables of constants that hold addresses, and only where code is position independent.
    assert " 0       0  core" in sizes["rv32imac-none"]
    assert sum("examples/baremetal.c" in line for line in lines) == 2


def test_library_has_every_function_of_the_header() -> None:
    make("-C", "firmware", "native")
    library = ctypes.CDLL(str(BUILD / "native" / "libmoesaic.so"))
    for header in ("include/moesaic.h", "platforms/linux_uio.h", "platforms/baremetal.h"):
        text = re.sub(r"/\*.*?\*/", "", (FIRMWARE / header).read_text(), flags=re.DOTALL)
        names = re.findall(r"\b(moesaic_\w+)\(", text)
        assert names
        for name in names:
            assert hasattr(library, name), f"{header}: {name}"


@pytest.mark.parametrize("target", ["aarch64-linux", "arm-linux"])
def test_library_for_a_board_needs_no_new_c_library(target: str) -> None:
    need(COMPILERS[target])
    make("-C", "firmware", f"DRIVER_FOR={target}", "library")
    path = BUILD / target / "libmoesaic.so"
    done = command(TOOLS / COMPILERS[target].replace("gcc", "readelf"), "-V", path)
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", done.stdout)}
    assert versions and max(versions) <= (2, 31), "PYNQ 2.7 has glibc 2.31"


def test_core_needs_no_header_of_a_system() -> None:
    allowed = {"stddef.h", "stdint.h", "string.h"}
    for path in [*FIRMWARE.glob("core/*.[ch]"), *FIRMWARE.glob("include/*.h")]:
        assert set(re.findall(r"#include <(.+)>", path.read_text())) <= allowed, path
