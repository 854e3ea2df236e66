"""How many threads the device `cpu` computes with: one, or as many as it is told to.

Here torch computes; of the library's threads see ``test_kernels``.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
import torch

from moesaic.host import Session
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads that torch had in every run of an executor."""
    counts: list[int] = []
    run = Executor.run

    def watched(self: Executor, *arguments: Any) -> Any:
        counts.append(torch.get_num_threads())
        return run(self, *arguments)

    monkeypatch.setattr(Executor, "run", watched)
    return counts


@pytest.fixture(autouse=True, params=[1, 3])
def callers_threads(request: pytest.FixtureRequest) -> Any:
    """What the program had torch set to, which is its own affair."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_option_sets_the_threads_and_no_result_changes(bundle: Bundle, seen: list[int]) -> None:
    shape = (3, *bundle.graphs["task"].input_shape[1:])
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    answers = []
    for options in ({}, {"threads": 2}, {"threads": 1}):
        with Session(bundle, "cpu", {"cpu": {"kernels": "torch", **options}}) as session:
            answers.append(session.run({"x": x})["y"])
            answers.append(session.submit({"x": x}).result()["y"])
    assert seen == [1, 1, 2, 2, 1, 1]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_threads_that_run_at_once_keep_their_own_setting(bundle: Bundle, seen: list[int]) -> None:
    x = np.zeros((1, *bundle.graphs["task"].input_shape[1:]), np.float32)
    program, after = torch.get_num_threads(), list[int]()

    def use(count: int) -> None:
        options = {"cpu": {"kernels": "torch", "threads": count}}
        with Session(bundle, "cpu", options) as session:
            for _ in range(5):
                session.run({"x": x})
                after.append(torch.get_num_threads())

    def look() -> None:
        after.append(torch.get_num_threads())

    users = [threading.Thread(target=use, args=(count,)) for count in (1, 2, 3, 4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    late = threading.Thread(target=look)
    late.start()
    late.join()
    assert after == [program] * 21
    assert sorted(seen) == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5


@pytest.mark.parametrize(("threads", "message"), [(0, "at least 1"), ("two", "of the type int")])
def test_wrong_number_is_refused(threads: Any, message: str, bundle: Bundle) -> None:
    with pytest.raises(UserError, match=f"cpu.threads must be {message}"):
        Session(bundle, "cpu", {"cpu": {"threads": threads}})


def test_more_threads_are_refused_in_a_fork(bundle: Bundle) -> None:
    """OpenMP's do not survive it: the child would wait for them for ever."""
    child = os.fork()
    if not child:
        code = 1
        try:
            Session(bundle, "cpu", {"cpu": {"kernels": "torch", "threads": 2}})
        except UserError as error:
            code = 0 if "do not survive a fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
