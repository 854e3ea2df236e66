"""The search: points that the sampler proposes, and steps from the best one so far."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterable
from itertools import combinations

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from moesaic.compiler.explore.goal import Goal, slowest
from moesaic.compiler.explore.judge import Judge, Verdict
from moesaic.compiler.explore.space import Space
from moesaic.compiler.explore.study import VERDICT
from moesaic.spec.arch import ArchConfig

STEP_EVERY = 3
"""One of so many trials is a step from the best one."""


def search(
    study: optuna.Study,
    space: Space,
    judge: Judge,
    goal: Goal,
    names: tuple[str, str],
    trials: int | None,
    seconds: float | None,
    first: Iterable[ArchConfig] = (),
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
    first
        A study that is new begins with the points nearest to these.
    progress
        Called with the trials done, and the share of the way to the end.
    """
    began, done = time.monotonic(), 0
    points = [] if study.trials else [space.point(arch) for arch in first]
    while True:
        spent = time.monotonic() - began
        shares = [done / trials] if trials is not None else []
        shares += [spent / seconds if seconds else 1.0] if seconds is not None else []
        progress(done, max(shares, default=0.0))
        if max(shares, default=0.0) >= 1:
            return done
        point = None
        if points:
            point = points.pop(0)
        elif done % STEP_EVERY == STEP_EVERY - 1:
            point = _step_from_best(study, space, judge, names)
        if point is None:
            _try_proposed(study, space, judge, goal, names)
        else:
            _try_point(study, space, judge, goal, names, point)
        done += 1


def _step_from_best(
    study: optuna.Study, space: Space, judge: Judge, names: tuple[str, str]
) -> dict[str, int] | None:
    """A neighbour of the best trial that this process has not judged yet, if there is one.

    The sampler learns where good targets are; steps of one parameter, and then of two, find the
    last per cent there, or what is missing where nothing fits yet.
    """
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if not done:
        return None
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
            return point | move
    return None


def _rank(trial: FrozenTrial) -> tuple[int, float]:
    """Complete trials first, then the others as the sampler takes them."""
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        return -sys.maxsize, trial.value
    step = max(trial.intermediate_values)
    return -step, trial.intermediate_values[step]


def _outcome(verdict: Verdict, goal: Goal) -> tuple[TrialState, int, float]:
    """State of the trial; of a pruned one also when it was refused, and a value to compare.

    The sampler takes a refused trial for the better, the later it was refused, and then the smaller
    its value: how far it is beyond the part; how little room it has for activations, all that a
    point can be short of, and of equal ones how much of the part it takes; its cycles.
    """
    if verdict.refused:
        room = math.log2(verdict.arch.activation_bytes)
        return TrialState.PRUNED, 2, verdict.excess - room
    if not verdict.cycles:
        return TrialState.PRUNED, 1, verdict.excess
    if not goal.meets(verdict):
        return TrialState.PRUNED, 3, float(slowest(verdict))
    return TrialState.COMPLETE, 0, goal.value(verdict)


def _try_proposed(
    study: optuna.Study, space: Space, judge: Judge, goal: Goal, names: tuple[str, str]
) -> None:
    """A point that the sampler proposes."""
    trial = study.ask()
    point = {name: trial.suggest_int(name, *ends) for name, ends in space.ranges.items()}
    verdict = judge(space.target(point, *names))
    trial.set_user_attr(VERDICT, verdict.to_dict())
    state, step, value = _outcome(verdict, goal)
    if state is TrialState.PRUNED:
        trial.report(value, step)
        study.tell(trial, state=state)
    else:
        study.tell(trial, value)


def _try_point(
    study: optuna.Study,
    space: Space,
    judge: Judge,
    goal: Goal,
    names: tuple[str, str],
    point: dict[str, int],
) -> None:
    """A point of our own. It enters the study when it is done: of a queue in a database, two
    processes can take the same trial."""
    verdict = judge(space.target(point, *names))
    state, step, value = _outcome(verdict, goal)
    pruned = state is TrialState.PRUNED
    trial = optuna.trial.create_trial(
        state=state,
        value=None if pruned else value,
        params=point,
        distributions={name: IntDistribution(*ends) for name, ends in space.ranges.items()},
        user_attrs={VERDICT: verdict.to_dict()},
        intermediate_values={step: value} if pruned else {},
    )
    study.add_trial(trial)
