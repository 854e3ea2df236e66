"""Whatever a bundle holds under right seals: refused in one sentence, or run right.

``FUZZ_SECONDS`` makes the run as long as wanted.
"""

from __future__ import annotations

import io
import os
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from moesaic.cli.compiling import inspect
from moesaic.cli.estimating import estimate
from moesaic.host import Session
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import front_frames
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph
from tests.outputs import only_output
from tests.spec import plain_executor
from tests.spec.bundle_mutations import MUTATIONS, Mutation, file_edits
from tests.spec.bundle_pieces import pieces

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
MOST_SECONDS = 30.0
"""For one bundle."""
MOST_BYTES = 1 << 30
"""That the process may grow by: none of the bundles needs a hundredth of it."""
MOST_MACS = 100_000
"""Of a graph that is also run value by value, in Python."""


class Score:
    """What became of the bundles that were tried."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(tried=0, refused=0, right=0, wrong=0)
        self.wrong: list[str] = []

    def judge(self, what: str, attempt: Callable[[], None]) -> None:
        """Run an attempt, which raises what is wrong."""
        started = time.monotonic()
        self.counts["tried"] += 1
        try:
            attempt()
            outcome = "right"
        except UserError as error:
            text = str(error)
            outcome = "refused" if text and "\n" not in text else "wrong"
            reason = repr(text)
        except BaseException:
            outcome, reason = "wrong", traceback.format_exc(limit=-6)
        if time.monotonic() - started > MOST_SECONDS:
            outcome, reason = "wrong", "it takes too long"
        self.counts[outcome] += 1
        if outcome == "wrong":
            self.wrong.append(f"{what}\n{reason}")


def use(folder: Path, reported: bool) -> None:
    """Do with a bundle what the commands do, and hold its outputs against plain integers."""
    bundle = load_bundle(folder)
    assert bundle.image
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        inspect(folder, False)
        if reported:
            estimate(folder, None, None, 60, 0.9, False, True)
    with Session(bundle, ["cpu"]) as session:
        for task, graph in bundle.graphs.items():
            ((source, sizes),) = bundle.inputs(task).items()
            x = np.random.default_rng(1).uniform(-1, 1, (1, *sizes[1:])).astype(np.float32)
            outputs = session.run({source: x}, task)
            assert {name: array.shape[1:] for name, array in outputs.items()} == {
                name: shape[1:] for name, shape in bundle.outputs(task).items()
            }
            if graph.macs <= MOST_MACS and task not in bundle.host_parts:
                frames = front_frames(bundle.front(task), source, x)
                expected = plain(graph, frames)
                assert np.array_equal(outputs[graph.heads[0].name], expected, equal_nan=True)


def plain(graph: IntGraph, x: np.ndarray) -> np.ndarray:
    """The output by plain Python integers."""
    (patches,) = quantise_input(graph, x)
    return only_output(graph, np.array([plain_executor.run(graph, patches)], np.int16))


def spoil(number: int, mutations: list[Mutation], file_edit: Callable[[Path], None]) -> None:
    """Make a bundle with these mutations and use it."""
    made = pieces(number)
    for _, mutate in mutations:
        mutate(made)
    with TemporaryDirectory() as folder:
        made.write(Path(folder))
        file_edit(Path(folder))
        use(Path(folder), any(name.startswith("report") for name, _ in mutations))


def rounds(first: int, score: Score, body: Callable[..., None], *strategies: object) -> None:
    """Draw examples, another hundred from another seed, until the time is over."""
    end, number = time.monotonic() + SECONDS, first
    while time.monotonic() < end and len(score.wrong) < 20:
        drawn = settings(
            max_examples=25,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(*strategies)(body))  # type: ignore[arg-type]
        seed(number)(drawn)()
        number += 1
    print(f"seeds {first} to {number - 1}:", dict(score.counts))


def test_spoilt_bundles_are_refused_or_right(capsys: pytest.CaptureFixture[str]) -> None:
    score = Score()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = int(time.time()) if "FUZZ_SECONDS" in os.environ else 0

    def body(number: int, mutations: list[Mutation], file_edit: tuple) -> None:  # type: ignore[type-arg]
        what = "; ".join(name for name, _ in mutations)
        score.judge(
            f"bundle {number}: {what}; {file_edit[0]}",
            lambda: spoil(number, mutations, file_edit[1]),
        )

    nothing = st.just(("none", lambda folder: None))
    edits = st.one_of(nothing, nothing, nothing, nothing, file_edits())
    with capsys.disabled():
        rounds(first, score, body, st.integers(0, 3), MUTATIONS, edits)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert not score.wrong, "\n\n".join(score.wrong)
    assert grown < MOST_BYTES
    # The run must have seen both sides.
    assert score.counts["right"] > 0.02 * score.counts["tried"] > 0
    assert score.counts["refused"] > 0.5 * score.counts["tried"]
