"""The resource model against the Verilog, and against the counts that it was fitted to."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from moesaic.hw.generate import cached_verilog
from moesaic.hw.memory.scratchpad import ActivationScratchpad
from moesaic.hw.resources.fit import fit, left_out_errors, total
from moesaic.hw.resources.report import PATTERNS, block_of
from moesaic.hw.resources.samples import COUNTED, main, sample_targets
from moesaic.hw.stream.unit import StreamUnit
from moesaic.hw.verilog import to_verilog
from moesaic.spec import resource_model
from moesaic.spec.arch import ArchConfig
from moesaic.spec.memories import INFERRED, block_rams, memories, ram_kind
from moesaic.spec.parts import PARTS
from moesaic.spec.presets import PRESETS
from moesaic.spec.resource_model import FEATURES, blocks_of, samples, shares, target_resources

_INSTANCE = re.compile(r"moesaic_(?:ultra_)?ram\s*#\((.*?)\)\s*\S+\s*\(\n", re.DOTALL)
_NUMBER = re.compile(r"\.(DEPTH|LANES|WIDTH)\(32'd(\d+)\)")


def instances(verilog: str) -> Counter[tuple[int, int, int]]:
    """Bits, words and lanes of every memory in the Verilog."""
    found: Counter[tuple[int, int, int]] = Counter()
    for match in _INSTANCE.finditer(verilog):
        sizes = {name: int(number) for name, number in _NUMBER.findall(match.group(1))}
        if sizes:  # else it is the module itself
            found[sizes["WIDTH"], sizes["DEPTH"], sizes["LANES"]] += 1
    return found


def test_memories_are_those_of_the_verilog() -> None:
    arch = PRESETS["nano"]
    expected: Counter[tuple[int, int, int]] = Counter()
    for ram in memories(arch):
        expected[ram.bits, ram.words, ram.lanes] += ram.count
    assert instances(cached_verilog(arch)) == expected


@pytest.mark.parametrize("ultra", [False, True])
def test_the_ring_alone_is_ultra_ram(ultra: bool) -> None:
    arch = dataclasses.replace(PRESETS["nano"], ultra_ring=ultra)
    verilog = to_verilog(StreamUnit(arch), "stream")
    memories_there = re.findall(r"(moesaic_\w+) #\(\n((?:\s+\.[A-Z]+\(32'd\d+\),?\n)+)", verilog)
    rings = [name for name, sizes in memories_there if f"DEPTH(32'd{arch.ring_words})" in sizes]
    assert rings == ["moesaic_ultra_ram" if ultra else "moesaic_ram"]
    assert verilog.count('"ultra"') == ultra == ("module moesaic_ultra_ram" in verilog)
    plain, found = (target_resources(one, "xcup") for one in (PRESETS["nano"], arch))
    assert found["uram"] == (4 if ultra else 0)
    assert (found["bram36"] < plain["bram36"]) == ultra
    # Where there is no UltraRAM, block RAM is what is taken.
    assert target_resources(arch, "xc7") == target_resources(PRESETS["nano"], "xc7")


@pytest.mark.parametrize("ultra", [False, True])
def test_activations_may_be_ultra_ram(ultra: bool) -> None:
    arch = dataclasses.replace(PRESETS["nano"], ultra_activations=ultra)
    verilog = to_verilog(ActivationScratchpad(arch), "scratchpad")
    banks = re.findall(r"^  (moesaic_\w+) #\($", verilog, re.M)
    assert banks == [f"moesaic_{'ultra_' if ultra else ''}ram"] * arch.activation_banks
    plain, found = (target_resources(one, "xcup") for one in (PRESETS["nano"], arch))
    # Words of 16 bytes, each with its write enable: two UltraRAMs for a bank's.
    assert found["uram"] == (2 * arch.activation_banks if ultra else 0)
    assert (found["bram36"] < plain["bram36"]) == ultra
    assert target_resources(arch, "xc7") == target_resources(PRESETS["nano"], "xc7")


def test_the_model_has_the_blocks_that_are_counted() -> None:
    plain = {block_of(pattern) for pattern in PATTERNS}
    assert set(FEATURES) == plain | {"top"}
    for sample in samples()["samples"]:
        family, name = sample["family"], sample["arch"]["name"]
        there = blocks_of(ArchConfig.from_dict(sample["arch"]))
        assert set(sample["blocks"]) == set(COUNTED[family][name]) & there
    assert {(s["family"], s["arch"]["name"]) for s in samples()["samples"]} == {
        (family, name) for family, names in COUNTED.items() for name in names
    }


def whole() -> list[dict[str, Any]]:
    return [
        s
        for s in samples()["samples"]
        if set(s["blocks"]) == blocks_of(ArchConfig.from_dict(s["arch"]))
    ]


def name_of(sample: dict[str, Any]) -> str:
    return f"{sample['family']}-{sample['arch']['name']}"


@pytest.mark.parametrize("sample", whole(), ids=name_of)
def test_the_model_gives_what_was_counted(sample: dict[str, Any]) -> None:
    family, arch = sample["family"], ArchConfig.from_dict(sample["arch"])
    found, kind = target_resources(arch, family), ram_kind(family)
    for block, counted in sample["blocks"].items():
        rams = [ram for ram in memories(arch) if ram.block == block]
        expected = sum(ram.count * block_rams(ram, kind) for ram in rams)
        assert expected + INFERRED[kind].get(block, 0) == counted[kind], block
    assert found["dsp"] == pytest.approx(total(sample, "dsp"), rel=0.03)
    assert found["lut"] == pytest.approx(total(sample, "lut"), rel=0.10)
    assert found["ff"] == pytest.approx(total(sample, "ff"), rel=0.10)


def test_the_coefficients_are_those_of_the_samples() -> None:
    """The file was written by the command that its name stands for, with the code as it is."""
    stored = samples()
    for family, coefficients in stored["coefficients"].items():
        assert fit(stored["samples"], family) == coefficients
    assert left_out_errors(stored["samples"]) == stored["left_out"]


def test_samples_are_the_targets_that_are_listed() -> None:
    listed = {arch.name: arch for arch in sample_targets()}
    for sample in samples()["samples"]:
        assert ArchConfig.from_dict(sample["arch"]) == listed[sample["arch"]["name"]]


def test_a_larger_size_never_takes_less() -> None:
    nano = PRESETS["nano"]
    for family in ("xcup", "xc7", "ecp5"):
        small = target_resources(nano, family)
        for change in ({"width": 32}, {"accumulator_rows": 1024}, {"ring_bytes": 1 << 17}):
            large = target_resources(dataclasses.replace(nano, **change), family)
            assert all(large[kind] >= small[kind] for kind in small)
            assert large != small


def test_a_part_without_a_resource_is_exceeded_at_once() -> None:
    part = dataclasses.replace(PARTS["xczu9eg"], capacity={**PARTS["xczu9eg"].capacity, "dsp": 0})
    found = shares(target_resources(PRESETS["nano"], "xcup"), part)
    assert found["dsp"] == float("inf") and found["uram"] == 0 and 0 < found["lut"] < 1


def test_fitting_again_writes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "samples.json"
    copy.write_bytes(resource_model.FILE.read_bytes())
    assert main(["--fit", "-o", str(copy)]) == 0
    assert json.loads(copy.read_text()) == samples()
    assert "lut" in capsys.readouterr().out
