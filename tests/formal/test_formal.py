"""The proofs that take seconds, and whether the runner notices what it is there for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from amaranth import Module, Signal

from moesaic.hw.memory import skid
from tests.formal import catalogue
from tests.formal.__main__ import main
from tests.formal.engine import induct, reach, search, trace
from tests.formal.harness import Control, Harness, Opened, Proof, mutant
from tests.formal.run import run, tasks


@pytest.mark.parametrize("name", [name for name, proof in catalogue.PROOFS.items() if proof.quick])
def test_quick_proof(name: str) -> None:
    results = run(tasks(catalogue.PROOFS[name]), lambda result: None)
    assert {result.task.kind for result in results} >= {"proof", "cover", "control"}
    assert not [result for result in results if not result.good]


@pytest.mark.parametrize("proof", catalogue.PROOFS.values(), ids=lambda proof: proof.name)
def test_proof_is_complete(proof: Proof) -> None:
    """Names of controls fit (else ``tasks`` refuses), mutants too, and each proof has covers."""
    assert {"cover"} <= {task.kind for task in tasks(proof)}
    for control in proof.controls:
        assert control.harness() is not None


class Counter(Harness):
    """Counts to 4 and begins again: 6 is never reached, 4 in cycle 4."""

    def describe(self, m: Module) -> None:
        count = Signal(3)
        m.d.sync += count.eq(count + 1)
        with m.If(count == 4):
            m.d.sync += count.eq(0)
        self.ensure("below 6", count < 6)
        self.ensure("below 4", count < 4)
        self.cover("at 2", count == 2)
        self.cover("at 7", count == 7)


def _claim(name: str) -> Counter:
    counter = Counter()
    counter.selected = lambda harness: [harness.properties[name]]
    return counter


def test_engines_agree_with_what_is_known() -> None:
    assert reach(_claim("below 6"), 60).outcome == "proven"
    assert search(_claim("below 6"), 12, 60).outcome == "none"
    assert induct(_claim("below 6"), 1, 60).outcome == "undecided"  # from 5 on it is false
    assert induct(_claim("below 6"), 3, 60).outcome == "proven"
    for found in (reach(_claim("below 4"), 60), search(_claim("below 4"), 12, 60)):
        assert (found.outcome, found.depth) == ("counterexample", 4)
    assert search(_claim("below 4"), 4, 60).outcome == "none"
    assert induct(_claim("below 4"), 8, 60).outcome == "counterexample"
    assert "count" in trace(_claim("below 4"), 4)


def test_failing_property_is_named_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.formal.__main__.PROOFS", {"counter": Proof("counter", Counter, ())})
    assert main(["--only", "counter", "-o", str(tmp_path)]) == 1
    err = capfd.readouterr().err
    assert "error: counter, proof, below 4: counterexample: see" in err
    assert "error: counter, cover, at 7: not reached" in err
    assert "cover: at 2: reached" in err
    assert (tmp_path / "counter.vcd").read_text().count("#") > 4
    kinds = [line["kind"] for line in json.loads((tmp_path / "results.json").read_text())]
    assert kinds == ["proof", "proof", "cover", "cover"]


def test_control_that_passes_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sound = Control("nothing broken", "below 6", Counter)
    proof = Proof("counter", Counter, (sound,), bounded={"below 4": 3})
    monkeypatch.setattr("tests.formal.__main__.PROOFS", {"counter": proof})
    assert main(["-o", str(tmp_path)]) == 1
    err = capfd.readouterr().err
    assert "error: counter, control, nothing broken" in err and "does not fail" in err
    assert "bounded: below 4: none found" in err


def test_unknown_name_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "x"]) == 2
    out, err = capfd.readouterr()
    assert err == f"error: --only knows no proof 'x': take one of {', '.join(catalogue.PROOFS)}\n"
    assert not out


def test_control_of_another_property_is_refused() -> None:
    wrong = Control("nothing", "no such property", Counter)
    with pytest.raises(ValueError, match="no property 'no such property'"):
        tasks(Proof("counter", Counter, (wrong,)))


def test_mutant_that_is_out_of_date_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times 'no such line', not 1"):
        mutant(skid, "no such line", "")


def test_inner_signals_are_found() -> None:
    opened = Opened(skid.SkidBuffer(4))
    assert isinstance(opened["filled_next"], Signal)
    with pytest.raises(KeyError):
        opened["no_such_signal"]
