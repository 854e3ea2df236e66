"""Products of one thread each, and work side by side."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from moesaic.compiler import driver
from moesaic.compiler.threads import MOST_THREADS, map_on_cores, one_thread
from moesaic.spec.torch_threads import torch_threads


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_products_have_one_thread_inside_and_as_many_as_before_behind() -> None:
    before = torch.get_num_threads(), blas_threads()
    with one_thread():
        assert (torch.get_num_threads(), blas_threads()) == (1, {1})
    assert (torch.get_num_threads(), blas_threads()) == before


def test_a_thread_inside_another_leaves_the_outer_number() -> None:
    before = torch.get_num_threads()
    with torch_threads(3):
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_threads_that_are_inside_at_once_leave_the_number_as_it_was() -> None:
    before, inside, leave = blas_threads(), threading.Barrier(2, timeout=30), threading.Event()

    def visit(first: bool) -> None:
        with one_thread():
            inside.wait()
            assert blas_threads() == {1}
            inside.wait()
            if not first:
                leave.wait(30)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        visits = [one.submit(visit, True), other.submit(visit, False)]
        visits[0].result(30)
        one.shutdown()  # the thread is gone when the other one leaves
        leave.set()
        visits[1].result(30)
    assert blas_threads() == before


def test_the_compiler_works_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    seen = []
    monkeypatch.setattr(driver, "_compile", lambda *given: seen.append(torch.get_num_threads()))
    samples = {"x": np.zeros((1, 2), np.float32)}
    driver.compile(f"{tmp_path}/model.onnx", "nano", samples, f"{tmp_path}/bundle")
    assert seen == [1]


def test_results_come_in_order_and_every_item_has_one_thread() -> None:
    def work(number: int) -> tuple[int, int]:
        return number, torch.get_num_threads()

    assert list(map_on_cores(work, range(20))) == [(number, 1) for number in range(20)]


def test_items_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    meeting = threading.Barrier(3, timeout=30)
    assert list(map_on_cores(lambda _: meeting.wait() >= 0, range(3))) == [True] * 3


def test_many_cores_do_not_make_many_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    meeting = threading.Barrier(MOST_THREADS + 1, timeout=0.5)

    def waits(_: int) -> bool:
        with suppress(threading.BrokenBarrierError):
            meeting.wait()
        return meeting.broken

    assert list(map_on_cores(waits, range(MOST_THREADS + 1))) == [True] * (MOST_THREADS + 1)


def test_an_error_is_raised_and_what_nobody_has_begun_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ValueError("no")
        return number

    found = map_on_cores(work, range(10_000))
    assert next(found) == 0
    with pytest.raises(ValueError, match="no"):
        next(found)
    assert len(begun) < 10_000
