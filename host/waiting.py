"""Calls that wait for a session's devices, and which of them go to a device in one go.

Calls of the same tasks are joined until they have as many frames as a batch may have; what is
given first goes first, but for calls that overtake those of other tasks to fill a batch. While
the device would idle otherwise, a batch with room waits for more, a bounded time from the first of
its calls on, and not if something else waits.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from moesaic.host.outputs import Inputs, Outputs


@dataclass(eq=False)
class Call:
    """A call that waits.

    Attributes
    ----------
    tasks
        What to run on its frames.
    inputs
        As the caller gave them; nothing has been looked at but their shapes.
    frames
        How many there are, or ``None`` if that is not plain to see: it runs alone then.
    single
        Whether the caller wants the outputs of the only task, instead of outputs by task.
    future
        Where the answer goes. Who waits for it may cancel it until a device begins.
    """

    tasks: tuple[str, ...]
    inputs: Inputs
    frames: int | None
    single: bool
    future: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def answer(self, answer: dict[str, Outputs] | BaseException) -> None:
        """Tell who waits for it, once."""
        if isinstance(answer, BaseException):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer[self.tasks[0]] if self.single else answer)


class CallQueue:
    """Calls in the order of their coming, and the thread that runs them.

    Parameters
    ----------
    run
        Called on the thread with calls of the same tasks, which have begun: answers all of them.
    batch_frames
        Most frames of some tasks that go in one go, asked for each batch; a call of more goes
        alone, as it is.
    wait_seconds
        Longest time that a batch with room waits for more.
    most_calls
        Most calls that can be there: a batch of so many does not wait.
    """

    def __init__(
        self,
        run: Callable[[list[Call]], None],
        batch_frames: Callable[[tuple[str, ...]], int],
        wait_seconds: float,
        most_calls: int,
    ) -> None:
        self._run, self._batch_frames = run, batch_frames
        self._wait_seconds, self._most_calls = wait_seconds, most_calls
        self._waiting: list[Call] = []
        self._change = threading.Condition()
        # An executor, for the interpreter waits at its exit for what executors have to do.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moesaic")
        self._working = self._closing = False

    def put(self, call: Call) -> bool:
        """Take a call; not if the queue is closed."""
        with self._change:
            if self._closing:
                return False
            self._waiting.append(call)
            self._change.notify()
            if not self._working:
                self._working = True
                self._worker.submit(self._work)
        # Weakly: who keeps a future must not keep the arrays that its call was for.
        waiting = weakref.ref(call)
        call.future.add_done_callback(lambda future: self._forget(waiting()))
        return True

    def hurry(self) -> None:
        """Let no batch wait for more from now on."""
        with self._change:
            self._wait_seconds = 0.0
            self._change.notify()

    def close(self) -> None:
        """Finish what is there, without waiting for more."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._worker.shutdown()

    def _forget(self, call: Call | None) -> None:
        """Drop a call that was cancelled while it waited, and with it its arrays."""
        with self._change:
            if call is not None and call in self._waiting:
                self._waiting.remove(call)
                call.future.set_running_or_notify_cancel()  # for concurrent.futures.wait()
                self._change.notify()

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Run a batch; ``False`` if nothing waits."""
        batch = self._next()
        if batch:
            self._run(batch)
        return bool(batch)

    def _next(self) -> list[Call]:
        """Calls for the device, which can be cancelled no more; empty if nothing waits."""
        with self._change:
            while self._waiting:
                batch, full = self._fitting()
                others = len(batch) < len(self._waiting)
                left = batch[0].arrived + self._wait_seconds - time.monotonic()
                if not (full or others or self._closing) and left > 0:
                    self._change.wait(left)
                    continue
                self._waiting = [call for call in self._waiting if call not in batch]
                begun = [call for call in batch if call.future.set_running_or_notify_cancel()]
                if begun:
                    return begun
            self._working = False
            return []

    def _fitting(self) -> tuple[list[Call], bool]:
        """The first call and those that go with it, and whether no other could."""
        first = self._waiting[0]
        most_frames = self._batch_frames(first.tasks)
        batch, frames = [first], first.frames
        if frames is None or frames >= most_frames:
            return batch, True
        for call in self._waiting[1:]:
            if call.tasks != first.tasks:
                continue
            if call.frames is None or frames + call.frames > most_frames:
                break  # those behind it must not overtake it
            batch.append(call)
            frames += call.frames
        return batch, frames >= most_frames or len(batch) >= self._most_calls
