"""Wheel and source distribution, installed outside of the checkout and used.

The fresh environments get their dependencies from this one, so that nothing is fetched; with
MOESAIC_INSTALL set they are installed as a user does it, and for every Python that is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FRESH = "MOESAIC_INSTALL" in os.environ
OLDEST = "3.11.2"
"""Debian 12's Python: what `make setup` promises to work with."""

pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="needs a checkout")


def run(
    *command: str | Path, cwd: Path, status: int = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, the wheel made from the unpacked sdist as an installer would."""
    place = tmp_path_factory.mktemp("dist")
    tree = place / "tree"
    # A copy, since setuptools writes beside the sources; only what git knows goes in.
    files = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", place)
    run(*build, "--sdist", cwd=tree)
    (sdist,) = place.glob("*.tar.gz")
    (place / "unpacked").mkdir()  # Python 3.11.2 has no filters yet, and warns later without
    run("tar", "-xzf", sdist, "-C", place / "unpacked", cwd=place)
    (source,) = (place / "unpacked").iterdir()
    run(*build, "--wheel", cwd=source)
    (wheel,) = place.glob("*.whl")
    return wheel, sdist


def environment(place: Path, wheel: Path, *, borrow: bool, python: str = sys.executable) -> Path:
    """A fresh one with the wheel; ``borrow`` lends it the dependencies of this environment."""
    run(python, "-m", "venv", place, cwd=place.parent)
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet")
    if FRESH:
        run(*pip, f"{wheel}[compile,report,serve,sim]" if borrow else wheel, cwd=place)
        return place / "bin"
    run(*pip, "--no-index", "--no-deps", wheel, cwd=place)
    (packages,) = place.glob("lib/python*/site-packages")
    ours = Path(pytest.__file__).parent.parent
    if borrow:
        # As a path and not as a site: what is editable there stays out.
        (packages / "borrowed.pth").write_text(f"{ours}\n")
    else:
        for found in ours.glob("numpy*"):
            (packages / found.name).symlink_to(found)
    return place / "bin"


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment with all extras."""
    return environment(tmp_path_factory.mktemp("all") / "env", distributions[0], borrow=True)


@pytest.fixture(scope="module")
def bundle(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, compiled by what is installed."""
    place = tmp_path_factory.mktemp("demo")
    export = ("-m", "moesaic.models.export", "--preset", "nano", "--out", "onnx")
    run(installed / "python", *export, cwd=place)
    models = ("seg=onnx/seg.onnx", "depth=onnx/depth.onnx", "--target", "nano")
    quick = ("--without", "ranges,feedback")
    calibration = ("--calibrate", "onnx/calibration.npz", "-o", "bundle")
    run(installed / "moesaic", "compile", *models, *calibration, *quick, cwd=place)
    return place / "bundle"


def test_wheel_has_what_is_not_python(distributions: tuple[Path, Path]) -> None:
    wheel, _ = distributions
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "py.typed",
        "host/libmoesaic.so",
        "host/cpu/libmoesaic_cpu.so",
        "firmware/Makefile",
        "firmware/targets.mk",
        "firmware/core/device.c",
        "firmware/include/moesaic.h",
        "firmware/board/deploy.sh",
        "sim/harness/harness.cpp",
        "models/checkpoints/nano.pt",
        "spec/clocks.json",
        "spec/toggles.json",
    ):
        assert f"moesaic/{name}" in names, name
    assert not [name for name in names if "/tests/" in name and "firmware" not in name]


def test_source_distribution_has_all_that_git_has(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    known = set(run("git", "ls-files", cwd=ROOT).stdout.splitlines())
    assert {name for name in known if (ROOT / name).exists()} - names <= {".gitignore"}


def test_runs_outside_of_the_checkout(installed: Path, bundle: Path) -> None:
    place = bundle.parent
    where = run(installed / "python", "-c", "import moesaic.hw as m; print(m.__file__)", cwd=place)
    assert str(installed.parent) in where.stdout
    # Built in the checkout's cache already, if this is the same gateware.
    verdict = run(
        installed / "moesaic",
        "verify",
        bundle,
        "--samples",
        "1",
        cwd=place,
        MOESAIC_CACHE=str(ROOT / "build" / "cache"),
    )
    assert verdict.stdout.count("exact") >= 2, verdict.stdout
    script = (
        "import numpy as np, moesaic\n"
        "with moesaic.Session('bundle', ['cpu'], strict=True) as session:\n"
        "    x = session.bundle.samples['seg.input'][:2]\n"
        "    print(session.run({'image': x}, 'seg')['seg'].shape)\n"
    )
    assert "(2, " in run(installed / "python", "-c", script, cwd=place).stdout


SCRIPT = """\
from pathlib import Path

import numpy as np

import moesaic


def frames(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.zeros((count, 3, 64, 128), np.float32)


def main() -> None:
    arch = moesaic.load_arch("nano")
    report = moesaic.compile({"seg": "seg.onnx"}, arch, "samples.npz", Path("mine"))
    bundle = moesaic.load("mine")
    try:
        with moesaic.Session(bundle, ["fpga", "cpu"]) as session:
            outputs = session.run({"image": frames(2)}, task="seg")
            placement = session.placement()
    except moesaic.UserError as error:
        raise SystemExit(str(error)) from error
    reveal_type(moesaic.__version__)
    reveal_type(arch)
    reveal_type(report)
    reveal_type(bundle)
    reveal_type(session)
    reveal_type(outputs)
    reveal_type(outputs["seg"])
    reveal_type(placement)


main()
"""
REVEALED = (
    "str", "ArchConfig", "dict[str, Any]", "Bundle", "Session", "Outputs", "ndarray", "list[",
)  # fmt: skip


def test_type_checker_finds_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python")
    found = run(*mypy, "script.py", cwd=tmp_path).stdout
    lines = [line for line in found.splitlines() if "Revealed type" in line]
    assert len(lines) == len(REVEALED), found
    for line, wanted in zip(lines, REVEALED, strict=True):
        assert wanted in line and '"Any"' not in line, line


def test_pins_are_for_the_oldest_python() -> None:
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) > 50
    wanted = {}
    for pin in pins:
        with contextlib.suppress(PackageNotFoundError):
            wanted[pin] = metadata(pin)["Requires-Python"] or ""
    assert len(wanted) > 50
    assert not {pin: need for pin, need in wanted.items() if OLDEST not in SpecifierSet(need)}


@pytest.mark.parametrize("version", PYTHONS if FRESH else [f"3.{sys.version_info[1]}"])
def test_runtime_needs_numpy_only(
    distributions: tuple[Path, Path], bundle: Path, tmp_path: Path, version: str
) -> None:
    python = shutil.which(f"python{version}") if FRESH else sys.executable
    if python is None:
        pytest.skip(f"there is no Python {version}")
    alone = environment(tmp_path / "env", distributions[0], borrow=False, python=python)
    for name in ("__init__", "runtime_alone", "outputs", "host/uio_files", "host/register_mock"):
        copy = tmp_path / "tests" / f"{name}.py"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / f"{name}.py", copy)
    done = run(alone / "python", "-m", "tests.runtime_alone", bundle, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "ok"
    refused = run(alone / "moesaic", "--help", cwd=tmp_path, status=2)
    assert "pip install 'moesaic[cli]'" in refused.stderr
