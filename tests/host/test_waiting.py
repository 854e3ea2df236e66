"""Which waiting calls go together, what ends the wait for more, and calls that are cancelled."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import pytest

from moesaic.host.waiting import Call, CallQueue

WAIT_SECONDS = 20.0
"""Longer than anything takes on a busy machine."""
LONG_SECONDS = 2 * WAIT_SECONDS
"""A wait for more calls that would fail a test, if anything waited for its end."""
A, B = ("a",), ("b",)


class Bench:
    """A queue whose batches are written down, and wait for the gate if it is shut."""

    def __init__(
        self, batch_frames: int = 4, wait_seconds: float = 0.0, most_calls: int = 99
    ) -> None:
        self.ran: list[list[int]] = []
        self.began, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()
        self.calls: list[Call] = []
        self.queue = CallQueue(self._run, lambda tasks: batch_frames, wait_seconds, most_calls)

    def _run(self, calls: list[Call]) -> None:
        assert len({call.tasks for call in calls}) == 1
        self.ran.append([self.calls.index(call) for call in calls])
        self.began.release()
        assert self.gate.wait(WAIT_SECONDS)
        for call in calls:
            call.future.set_result({})

    def put(
        self, tasks: tuple[str, ...] = A, frames: int | None = 1, future: Future[Any] | None = None
    ) -> Future[Any]:
        call = Call(tasks, {}, frames, False, *filter(None, [future]))
        self.calls.append(call)
        assert self.queue.put(call)
        return call.future

    def hold(self) -> None:
        """Occupy the device with call 0 until the gate opens."""
        self.gate.clear()
        self.put(("held",))
        assert self.began.acquire(timeout=WAIT_SECONDS)

    def finished(self) -> list[list[int]]:
        """Open the gate; the calls of each batch by number, once no call waits."""
        self.gate.set()
        wait([call.future for call in self.calls], WAIT_SECONDS)
        assert all(call.future.done() for call in self.calls)
        return self.ran


@contextmanager
def benches(*sizes: Any, **more: Any) -> Iterator[Bench]:
    """A bench that ends with the block, whatever fails in it."""
    made = Bench(*sizes, **more)
    try:
        yield made
    finally:
        made.gate.set()
        made.queue.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with benches() as made:
        yield made


@pytest.mark.parametrize(
    ("calls", "batches"),
    [
        ([(A, 1)] * 3, [[1, 2, 3]]),
        ([(A, 1)] * 9, [[1, 2, 3, 4], [5, 6, 7, 8], [9]]),
        # The one that does not fit is not overtaken by a smaller one behind it.
        ([(A, 2), (A, 3), (A, 1)], [[1], [2, 3]]),
        ([(A, 1), (B, 1), (A, 1), (B, 1)], [[1, 3], [2, 4]]),
        # More than a batch holds: alone, as it is.
        ([(A, 5), (A, 1), (A, 1)], [[1], [2, 3]]),
        ([(A, 1), (A, 9), (A, 1)], [[1], [2], [3]]),
        ([(A, 4), (A, 1)], [[1], [2]]),
        # Nobody has counted them.
        ([(A, None), (A, None), (A, 1)], [[1], [2], [3]]),
        ([(A, 1), (A, None), (A, 1)], [[1], [2], [3]]),
    ],
)
def test_waiting_calls_are_joined(
    bench: Bench, calls: list[tuple[tuple[str, ...], int | None]], batches: list[list[int]]
) -> None:
    bench.hold()
    for tasks, frames in calls:
        bench.put(tasks, frames)
    assert bench.finished() == [[0], *batches]


def test_a_batch_of_one_frame_joins_nothing() -> None:
    with benches(batch_frames=1, wait_seconds=LONG_SECONDS) as bench:
        bench.hold()
        for _ in range(3):
            bench.put()
        assert bench.finished() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("reason", ["full", "calls", "others", "uncounted", "close", "cancelled"])
def test_wait_for_more_ends_early(reason: str) -> None:
    with benches(4, LONG_SECONDS, most_calls=3 if reason == "calls" else 99) as bench:
        first = bench.put()
        assert not bench.began.acquire(timeout=0.02), "it did not wait"
        bench.put()
        wanted = [[0, 1]]
        match reason:
            case "full":
                bench.put(frames=2)
                wanted = [[0, 1, 2]]
            case "calls":
                bench.put()
                wanted = [[0, 1, 2]]
            case "others":
                bench.put(B, 4)
                wanted = [[0, 1], [2]]
            case "uncounted":
                bench.put(frames=None)
                wanted = [[0, 1], [2]]
            case "close":
                bench.queue.close()
            case "cancelled":
                assert first.cancel()
                bench.put(frames=3)
                wanted = [[1, 2]]
        assert bench.finished() == wanted


def test_batch_with_room_waits_its_time_and_no_longer() -> None:
    with benches(4, 0.1) as bench:
        bench.put()
        started = bench.calls[0].arrived
        bench.put()
        assert bench.finished() == [[0, 1]]
        assert time.monotonic() - started >= 0.1
        # What has waited for the device as long as that waits no more.
        bench.queue._wait_seconds = WAIT_SECONDS / 10
        bench.hold()
        bench.put()
        bench.calls[-1].arrived -= WAIT_SECONDS / 10
        started = time.monotonic()
        bench.finished()
        assert time.monotonic() - started < WAIT_SECONDS / 10


def test_cancelled_call_leaves_at_once_with_its_arrays(bench: Bench) -> None:
    bench.hold()
    future, kept = bench.put(), bench.put()
    call = weakref.ref(bench.calls.pop(1))
    assert future.cancel() and not bench.calls[0].future.cancel()
    assert wait([future], WAIT_SECONDS).done == {future}, "who waits for it is not told"
    del future
    assert call() is None, "the device still runs, and the call waits for it"
    bench.finished()
    assert bench.ran == [[0], [1]] and kept.done()


class LastMoment(Future[Any]):
    """Is cancelled between the choice of a batch and its beginning."""

    def set_running_or_notify_cancel(self) -> bool:
        if not self.done():
            assert self.cancel()
            assert super().cancelled()
        return super().set_running_or_notify_cancel()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_call_cancelled_as_its_batch_begins_is_left_out(place: int) -> None:
    with benches() as bench:
        bench.hold()
        futures = [bench.put(future=LastMoment() if place == i else None) for i in range(3)]
        bench.gate.set()
        others = [future for i, future in enumerate(futures) if i != place]
        assert not wait(others, WAIT_SECONDS).not_done
        assert bench.ran == [[0], [i + 1 for i in range(3) if i != place]]
        assert futures[place].cancelled()


def test_batch_of_which_all_are_cancelled_as_it_begins_never_runs(bench: Bench) -> None:
    bench.hold()
    bench.put(future=LastMoment())
    bench.put(B)
    bench.gate.set()
    wait([bench.calls[2].future], WAIT_SECONDS)
    assert bench.ran == [[0], [2]]


def test_calls_that_come_while_a_batch_runs_are_none_of_it(bench: Bench) -> None:
    bench.hold()
    bench.put()
    bench.gate.set()
    assert bench.began.acquire(timeout=WAIT_SECONDS)
    bench.put()
    bench.finished()
    assert [number for batch in bench.ran for number in batch] == [0, 1, 2]


def test_queue_works_again_after_it_was_empty(bench: Bench) -> None:
    for number in range(50):  # the thread may be about to find it empty
        bench.put().result(WAIT_SECONDS)
        assert bench.ran[-1] == [number]


def test_closed_queue_finishes_and_takes_nothing(bench: Bench) -> None:
    bench.hold()
    future = bench.put()
    closing = threading.Thread(target=bench.queue.close)
    closing.start()
    while not bench.queue._closing:
        time.sleep(0.001)
    assert not bench.queue.put(Call(A, {}, 1, False))
    bench.gate.set()
    closing.join(WAIT_SECONDS)
    assert not closing.is_alive() and future.done()


def test_calls_cancelled_by_other_threads_run_or_are_cancelled_but_not_both(bench: Bench) -> None:
    futures = [bench.put() for _ in range(5)]
    stop = threading.Event()
    cancelled: list[Future[Any]] = []

    def cancel() -> None:
        while not stop.is_set():
            for future in futures[-5:]:
                if future.cancel():
                    cancelled.append(future)

    thread = threading.Thread(target=cancel)
    thread.start()
    for _ in range(300):
        futures.append(bench.put())
    stop.set()
    thread.join(WAIT_SECONDS)
    bench.finished()
    ran = [number for batch in bench.ran for number in batch]
    assert ran == sorted(set(ran))
    assert {i for i, future in enumerate(futures) if not future.cancelled()} == set(ran)
