"""``stage.py OUT LIBRARY``: the part of Moesaic that a board needs, ready to be copied.

It needs Python 3.10 and numpy there, neither pip nor torch: `host` and `spec`, the driver's library
beside them, and a .dist-info folder, by which sessions find their devices.
"""

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stage(out: Path, library: Path) -> None:
    """Make ``out`` anew."""
    shutil.rmtree(out, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("host", "spec"):
        shutil.copytree(ROOT / folder, out / "moesaic" / folder, ignore=skip)
    shutil.copy(library, out / "moesaic" / "host" / "libmoesaic.so")
    for name in ("boards.sh", "dry.sh", "load.sh", "moesaic.dtsi", "run.py"):
        shutil.copy(Path(__file__).parent / name, out / name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = out / f"moesaic-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: moesaic\nVersion: {project['version']}\n"
    )
    lines = ["[moesaic.devices]"]
    lines += [
        f"{name} = {target}"
        for name, target in project["entry-points"]["moesaic.devices"].items()
        if target.startswith("moesaic.host.")
    ]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    stage(Path(sys.argv[1]), Path(sys.argv[2]))
