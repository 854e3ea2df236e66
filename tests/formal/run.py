"""Proofs, covers and controls as tasks with a result each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from amaranth import Value
from amaranth.hdl import Fragment, UnusedElaboratable

from tests.formal.engine import Verdict, induct, reach, search, trace
from tests.formal.harness import Harness, Proof

WANTED = {"proof": "proven", "bounded": "none", "cover": "counterexample"}
"""What the model checker must find. A cover is what a "never" has as its counterexample."""

warnings.filterwarnings("ignore", category=UnusedElaboratable)


@dataclass(frozen=True)
class Task:
    """One run of the model checker.

    Attributes
    ----------
    proof
        The name of the proof it belongs to.
    kind
        ``proof``, ``bounded``, ``cover`` or ``control``.
    subjects
        Properties, the cover, or what is broken.
    harness
        Makes the harness, with what is to be asserted selected.
    decide
        Asks the model checker.
    """

    proof: str
    kind: str
    subjects: tuple[str, ...]
    harness: Callable[[], Harness]
    decide: Callable[[Harness], Verdict]


@dataclass(frozen=True)
class Result:
    """A task, what came of it, and the trace of an unwanted counterexample (VCD)."""

    task: Task
    verdict: Verdict
    failing: str = ""
    trace: str = ""

    @property
    def word(self) -> str:
        """The outcome as a reader calls it: that a control has a counterexample is good."""
        good = {"proof": "proven", "bounded": "none found", "cover": "reached", "control": "fails"}
        if self.good:
            return good[self.task.kind]
        bad = {"cover": "not reached", "control": "does not fail"}
        return bad.get(self.task.kind, self.verdict.outcome)

    @property
    def good(self) -> bool:
        """Whether the model checker found what it must."""
        return self.verdict.outcome == WANTED.get(self.task.kind, "counterexample")


def tasks(proof: Proof) -> list[Task]:
    """All runs of one proof; the long ones first.

    Raises
    ------
    ValueError
        A control or a bounded property has a name that the harness does not know.
    """
    claims = proof.harness()
    Fragment.get(claims, None)  # what it claims is known once it is elaborated
    names = tuple(name for name in claims.properties if name not in proof.bounded)
    wrong = [
        name
        for name in (*proof.bounded, *(control.property for control in proof.controls))
        if name not in claims.properties
    ]
    if wrong:
        raise ValueError(f"proof {proof.name} has no property {wrong[0]!r}")

    def ask(harness: Harness) -> Verdict:
        if proof.steps:
            return induct(harness, proof.steps, proof.seconds)
        return reach(harness, proof.seconds)

    def look(depth: int) -> Callable[[Harness], Verdict]:
        return lambda harness: search(harness, depth, proof.seconds)

    found = []
    if names:
        found.append(Task(proof.name, "proof", names, _select(proof.harness, _claims(names)), ask))
    for name, depth in proof.bounded.items():  # together they would take much longer
        chosen = _select(proof.harness, _properties((name,)))
        found.append(Task(proof.name, "bounded", (name,), chosen, look(depth)))
    for name in claims.covers:
        chosen = _select(proof.harness, lambda harness, name=name: [~harness.covers[name]])
        found.append(Task(proof.name, "cover", (name,), chosen, look(proof.cover_depth)))
    for control in proof.controls:
        chosen = _select(control.harness, _properties((control.property,)))
        subject = (f"{control.name}: breaks “{control.property}”",)
        found.append(Task(proof.name, "control", subject, chosen, look(control.depth)))
    return found


def run(chosen: list[Task], progress: Callable[[Result], None]) -> list[Result]:
    """Run tasks, two at a time; ``progress`` is told each result when it is there."""

    def one(task: Task) -> Result:
        verdict = task.decide(task.harness())
        result = Result(task, verdict)
        if not result.good and verdict.outcome == "counterexample":
            result = _explain(task, verdict)
        progress(result)
        return result

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, chosen))


def _explain(task: Task, verdict: Verdict) -> Result:
    """Which property fails first, with its shortest trace."""
    shortest: tuple[int, str] | None = None
    for name in task.subjects:
        chosen = _select(task.harness, _properties((name,)))
        found = search(chosen(), verdict.depth + 1, 300)
        if found.outcome == "counterexample" and (not shortest or found.depth < shortest[0]):
            shortest = found.depth, name
    if shortest is None:  # an invariant fails, and no property
        return Result(task, verdict, "an invariant", trace(task.harness(), verdict.depth))
    depth, name = shortest
    return Result(task, verdict, name, trace(_select(task.harness, _properties((name,)))(), depth))


def _claims(names: tuple[str, ...]) -> Callable[[Harness], list[Value]]:
    return lambda harness: [*(harness.properties[name] for name in names), *harness.invariants]


def _properties(names: tuple[str, ...]) -> Callable[[Harness], list[Value]]:
    return lambda harness: [harness.properties[name] for name in names]


def _select(
    make: Callable[[], Harness], selected: Callable[[Harness], list[Value]]
) -> Callable[[], Harness]:
    def made() -> Harness:
        harness = make()
        harness.selected = selected
        return harness

    return made


def rows(results: list[Result]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Lines of the table: proof, what, kind, depth, seconds, outcome."""
    for result in results:
        verdict = result.verdict
        for n, subject in enumerate(result.task.subjects):
            seconds = f"{verdict.seconds:.1f}" if n == 0 else ""
            outcome = result.word if n == 0 else ""
            yield result.task.proof, subject, result.task.kind, str(verdict.depth), seconds, outcome
