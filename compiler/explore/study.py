"""Studies of Optuna in files and databases, which several processes may share."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from moesaic.compiler.explore.judge import Verdict
from moesaic.spec.errors import UserError

RANDOM_TRIALS = 24
"""Before the sampler begins to learn."""
VERDICT = "verdict"
"""User attribute of a trial: `Verdict.to_dict`."""


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
