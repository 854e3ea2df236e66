"""What the simulator watches: found in an accelerator's Verilog, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.sim.build import accelerator_verilog
from moesaic.sim.probes import find_probes, probes_header, state_names
from moesaic.sim.registered import register_inputs
from moesaic.sim.verilator import BuildError, lint
from moesaic.spec.isa import Unit
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import COUNTERS

from .dummy_top import dummy_verilog


def test_other_designs_have_no_probes() -> None:
    assert find_probes(dummy_verilog(1, 64), "top") == []
    assert "MOESAIC_PROBES 0" in probes_header([])


def test_accelerator_has_a_probe_per_unit_and_expert() -> None:
    arch = PRESETS["nano"]
    probes = {probe.name: probe for probe in find_probes(accelerator_verilog(arch), "top")}
    for unit in Unit:
        # Idle has no bit; the harness knows 16 of them.
        assert probes[f"probe_{unit.name.lower()}"].width == len(state_names(unit)) - 1 <= 16
    assert probes["probe_counts"].width == 16 * arch.max_experts
    assert f"MOESAIC_PROBED_EXPERTS {arch.max_experts}" in probes_header(list(probes.values()))


def test_every_stall_reason_is_a_counter() -> None:
    names = {name for name, _ in COUNTERS}
    for unit in Unit:
        reasons = [name for name in state_names(unit) if name.startswith("stall ")][:-1]
        for reason in reasons:
            assert f"{unit.name}_WAIT_{reason.removeprefix('stall ').upper()}" in names


def test_a_wire_that_is_gone_fails_the_build(tmp_path: Path) -> None:
    wrapper, toplevel = register_inputs(accelerator_verilog(PRESETS["nano"]), "top")
    file = tmp_path / "top.v"
    file.write_text(wrapper)
    lint(file, toplevel)
    file.write_text(wrapper.replace("inner.control.tokens.take0", "inner.control.tokens.gone0"))
    with pytest.raises(BuildError, match="gone0"):
        lint(file, toplevel)
