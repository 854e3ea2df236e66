"""The search: trials in an Optuna study that several processes may share."""

from __future__ import annotations

import math
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from moesaic.compiler.explore.judge import Judge, Verdict
from moesaic.compiler.explore.space import Space
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

OBJECTIVES = ("latency", "fps", "area")
"""latency: cycles of the slowest task. fps: cycles of a frame of every task, one after the other.
area: the largest share of the part."""
RANDOM_TRIALS = 24
"""Before the sampler begins to learn."""
STEP_EVERY = 3
"""One of so many trials is a single step from the best one."""
VERDICT = "verdict"
"""User attribute of a trial: `Verdict.to_dict`."""


@dataclass(frozen=True)
class Goal:
    """What is looked for."""

    objective: str
    most_cycles: int | None = None
    """Of the slowest task; a slower target is refused."""

    def value(self, verdict: Verdict) -> float:
        """What is made small."""
        if self.objective == "area":
            return verdict.area
        return float(slowest(verdict) if self.objective == "latency" else sum_of(verdict))

    def meets(self, verdict: Verdict) -> bool:
        return self.most_cycles is None or slowest(verdict) <= self.most_cycles


def slowest(verdict: Verdict) -> int:
    """Cycles of the task that takes the most."""
    return max(verdict.cycles.values())


def sum_of(verdict: Verdict) -> int:
    """Cycles of a frame of every task."""
    return sum(verdict.cycles.values())


def open_storage(where: str | Path) -> BaseStorage:
    """Optuna's storage: a URL of a database, else the path of a journal file.

    Raises
    ------
    UserError
        It cannot be opened, or holds something else.
    """
    try:
        if "://" in str(where):
            return RDBStorage(str(where))
        path = Path(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # whatever a driver throws at a wrong URL or a foreign file
        raise UserError(_storage_refusal(where, error)) from error


def _storage_refusal(where: str | Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [""])[0]
    return (
        f"storage {where} cannot be used: {reason or type(error).__name__}; name a journal file or"
        " the URL of a database that Optuna takes, such as sqlite:///explore.db"
    )


def open_study(
    where: str | Path, name: str, seed: int | None, shared: bool = False
) -> optuna.Study:
    """The study of that name, made if the storage has none.

    Processes that share a study draw differently, also those with one seed: what each finds there
    depends on the others' pace anyway.

    Raises
    ------
    UserError
        As :func:`open_storage`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(where)
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, direction="minimize", load_if_exists=True
        )
        done = len(study.trials)
    except Exception as error:
        raise UserError(_storage_refusal(where, error)) from error
    # A study that goes on must not draw again what it has.
    mixed = f"{seed} {done} {os.getpid() if shared else 0}"
    drawn = None if seed is None else zlib.crc32(mixed.encode())
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True, seed=drawn
    )
    return study


def enqueue(study: optuna.Study, space: Space, archs: Iterable[ArchConfig]) -> None:
    """Let a study that is new begin with the points nearest to these targets."""
    if not study.trials:
        for arch in archs:
            study.enqueue_trial(space.point(arch), skip_if_exists=True)


def search(
    study: optuna.Study,
    space: Space,
    judge: Judge,
    goal: Goal,
    names: tuple[str, str],
    trials: int | None,
    seconds: float | None,
    progress: Callable[[int, float], None] = lambda done, share: None,
) -> int:
    """Run this process's share of trials; returns how many that were.

    A target that the part or the model refuses is a pruned trial, which says by how much.

    Parameters
    ----------
    names
        Of the targets, and of their device.
    trials, seconds
        Where it ends, whichever comes first; None for no such end.
    progress
        Called with the trials done, and the share of the way to the end.
    """
    began, done = time.monotonic(), 0
    while True:
        spent = time.monotonic() - began
        shares = [done / trials] if trials is not None else []
        shares += [spent / seconds if seconds else 1.0] if seconds is not None else []
        progress(done, max(shares, default=0.0))
        if max(shares, default=0.0) >= 1:
            return done
        if done % STEP_EVERY == STEP_EVERY - 1:
            _step_from_best(study, space, judge, names)
        _try_one(study, space, judge, goal, names)
        done += 1


def _step_from_best(
    study: optuna.Study, space: Space, judge: Judge, names: tuple[str, str]
) -> None:
    """Let the next trial be a neighbour of the best one that this process has not judged yet.

    The sampler learns where good targets are; steps of one parameter, and then of two, find the
    last per cent there, or what is missing where nothing fits yet.
    """
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if not done or any(trial.state is TrialState.WAITING for trial in trials):
        return
    # The point may say more than its target has: a step from there might change nothing.
    point = space.point(space.target(min(done, key=_rank).params, *names))
    moves = [
        {name: value}
        for name, (low, high) in space.ranges.items()
        for value in (point[name] + 1, point[name] - 1)
        if low <= value <= high
    ]
    pairs = [one | other for one, other in combinations(moves, 2) if one.keys() != other.keys()]
    # No order of pairs is better than another: a fixed one would favour the first parameters.
    random.Random(len(done)).shuffle(pairs)
    for move in (*moves, *pairs):
        if not judge.knows(space.target(point | move, *names)):
            study.enqueue_trial(point | move)
            return


def _rank(trial: FrozenTrial) -> tuple[int, float]:
    """Complete trials first, then the others as the sampler takes them."""
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        return -sys.maxsize, trial.value
    step = max(trial.intermediate_values)
    return -step, trial.intermediate_values[step]


def _try_one(
    study: optuna.Study, space: Space, judge: Judge, goal: Goal, names: tuple[str, str]
) -> None:
    trial = study.ask()
    chosen = {name: trial.suggest_int(name, *ends) for name, ends in space.ranges.items()}
    verdict = judge(space.target(chosen, *names))
    trial.set_user_attr(VERDICT, verdict.to_dict())
    # The sampler takes a refused trial for the better, the later it was refused, and then the
    # smaller its value: how far it is beyond the part; how little room it has for activations, all
    # that a point can be short of, and of equal ones how much of the part it takes; its cycles.
    if verdict.refused:
        trial.report(verdict.excess - math.log2(verdict.arch.activation_bytes), step=2)
        study.tell(trial, state=TrialState.PRUNED)
    elif not verdict.cycles:
        trial.report(verdict.excess, step=1)
        study.tell(trial, state=TrialState.PRUNED)
    elif not goal.meets(verdict):
        trial.report(slowest(verdict), step=3)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, goal.value(verdict))


def finished(study: optuna.Study) -> int:
    """Trials of all processes that have come to an end."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def verdicts(trials: Iterable[FrozenTrial]) -> list[Verdict]:
    """Of all trials that came to one, each target once."""
    found: dict[int, Verdict] = {}
    for trial in trials:
        if VERDICT in trial.user_attrs:
            verdict = Verdict.from_dict(trial.user_attrs[VERDICT])
            found.setdefault(verdict.arch.hash, verdict)
    return list(found.values())


def pareto(found: Iterable[Verdict]) -> list[Verdict]:
    """Those for which no other one is both as small and faster; the fastest first."""
    result: list[Verdict] = []
    runs = [verdict for verdict in found if verdict.cycles]
    for verdict in sorted(runs, key=lambda v: (slowest(v), v.area)):
        if not result or verdict.area < result[-1].area:
            result.append(verdict)
    return result


def best(found: Iterable[Verdict], goal: Goal) -> Verdict | None:
    """The one that the goal asks for; of equal ones the smallest."""
    good = [verdict for verdict in found if verdict.cycles and goal.meets(verdict)]
    order = [(goal.value(v), v.area, slowest(v), n) for n, v in enumerate(good)]
    return good[min(order)[-1]] if good else None
