"""A thousand requests from eight threads while devices fail at random: every one is answered right
or refused in words; none is wrong, none is lost.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from moesaic.host import QueueFull, Session
from moesaic.host.outputs import Outputs
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.faulty_devices import FaultySimulation, draw, make_unreliable
from tests.host.register_mock import FAULTS, MockAccelerator
from tests.outputs import only_output

pytestmark = pytest.mark.usefixtures("faulty_devices")

THREADS = 8
INPUTS = 6  # different ones of each task

Waiting = list[tuple[tuple[str, int], Future[Outputs]]]
"""Requests under way: (task, seed of the input) and where the answer comes."""


def bad_input(inputs: dict[str, np.ndarray], number: int) -> dict[str, Any]:
    """One of the ways in which a request is wrong."""
    x = inputs["x"]
    wrong = x.copy()
    wrong.flat[number % x.size] = np.nan
    return [{"x": wrong}, {"y": x}, {"x": x[..., :-1]}, {"x": x.astype(str)}][number % 4]


class Clients:
    """Threads that send requests and compare each answer with what every device must give."""

    def __init__(self, session: Session, bundle: Bundle, requests: int) -> None:
        self.session, self.bundle, self.requests = session, bundle, requests
        self.cases = {
            (task, seed): draw(bundle, task, 100 + seed)
            for task in bundle.tasks
            for seed in range(INPUTS)
        }
        self.outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def _record(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _check(self, key: tuple[str, int], answer: Outputs) -> None:
        graph = self.bundle.graphs[key[0]]
        expected = only_output(graph, self.cases[key][1])
        right = np.array_equal(answer[graph.heads[0].name], expected)
        self._record(f"answered by {answer.device}" if right else "WRONG")

    def _client(self, number: int) -> None:
        rng = np.random.default_rng(number)
        waiting: Waiting = []
        for request in range(number, self.requests, THREADS):
            key = (str(rng.choice(list(self.bundle.tasks))), int(rng.integers(INPUTS)))
            inputs = self.cases[key][0]
            way = rng.random()
            try:
                if way < 0.05:
                    self.session.run(bad_input(inputs, request), task=key[0])
                    self._record("WRONG: a bad request was answered")
                elif way < 0.5:
                    self._check(key, self.session.run(inputs, task=key[0]))
                else:
                    waiting.append((key, self._submit(inputs, key[0], waiting)))
            except UserError:
                self._record("refused: bad request" if way < 0.05 else "WRONG: a refusal")
            except QueueFull:
                self._record("refused: queue full")
            if len(waiting) > 3:
                self._check(waiting[0][0], waiting.pop(0)[1].result(60))
        for key, future in waiting:
            self._check(key, future.result(60))

    def _submit(
        self, inputs: dict[str, np.ndarray], task: str, waiting: Waiting
    ) -> Future[Outputs]:
        """Submit; while the queue is full, take answers of one's own, then give up."""
        while True:
            try:
                return self.session.submit(inputs, task)
            except QueueFull:
                if not waiting:
                    raise
                key, future = waiting.pop(0)
                self._check(key, future.result(60))

    def run(self) -> Counter[str]:
        """Send all requests; returns how many ended how."""
        threads = [threading.Thread(target=self._client, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
        assert not any(thread.is_alive() for thread in threads), "a request hangs"
        return self.outcomes


def judge(outcomes: Counter[str], requests: int, device: str) -> None:
    print(dict(outcomes))
    assert outcomes.total() == requests, "a request was lost or answered twice"
    assert not [outcome for outcome in outcomes if "WRONG" in outcome]
    assert outcomes["answered by cpu"] > 0 and outcomes[f"answered by {device}"] > 0


def test_a_thousand_requests_on_a_register_level_mock(
    two_tasks: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth of the frames meets a fault of the hardware, beneath the C driver."""
    met = make_unreliable(monkeypatch, "mock", 0.1, seed=1)
    with Session(two_tasks, ["mock", "cpu"], queue_frames=8, pause_seconds=0.0) as session:
        outcomes = Clients(session, two_tasks, 1000).run()
    judge(outcomes, 1000, "mock")
    assert set(met) == set(FAULTS)
    assert outcomes["refused: bad request"] > 0
    assert len(MockAccelerator.opened) > 10
    assert all(device.transport.closed for device in MockAccelerator.opened), "a device leaked"


def test_a_hundred_requests_on_the_rtl(
    two_tasks: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At least fifty of them are answered by the gateware, while its memory and bus fail."""
    met = make_unreliable(monkeypatch, "sim", 0.08, seed=2)
    with Session(two_tasks, ["sim", "cpu"], queue_frames=16, pause_seconds=0.0) as session:
        outcomes = Clients(session, two_tasks, 120).run()
    judge(outcomes, 120, "sim")
    assert outcomes["answered by sim"] >= 50 and met.total() >= 3
    assert all(device.transport._handle is None for device in FaultySimulation.opened)
