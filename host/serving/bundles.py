"""Several bundles behind one server: what they and their tasks are called, and who runs them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesaic.host.session import Session
from moesaic.spec.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Of a bundle: a part of URLs, of labels and of other options."""


@dataclass(frozen=True)
class NamedBundle:
    """A bundle as the command line gives it.

    Attributes
    ----------
    name
        Given, or the folder's.
    given
        Whether it stands before all of the bundle's tasks.
    """

    name: str
    path: Path
    given: bool


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle that a server answers for.

    Attributes
    ----------
    name
        What the bundle is called in messages and metrics; empty if it is the only one.
    session
        Its devices, which are no other bundle's.
    models
        Names of the protocol's models by task.
    """

    name: str
    session: Session
    models: dict[str, str]


def alone(session: Session) -> Served:
    """The only bundle of a server: its models are called as its tasks."""
    return Served("", session, {task: task for task in session.bundle.tasks})


def read_names(texts: Sequence[str]) -> list[NamedBundle]:
    """``BUNDLE`` or ``NAME=BUNDLE``, each.

    Raises
    ------
    UserError
        Several have the same name, or one has none that can be part of a URL.
    """
    found: list[NamedBundle] = []
    for text in texts:
        name, equals, path = text.partition("=")
        if equals and _NAME.fullmatch(name):
            found.append(NamedBundle(name, Path(path), True))
        else:  # a path may hold "=" behind a slash
            found.append(NamedBundle(Path(text).resolve().name, Path(text), False))
    for bundle in found if len(found) > 1 else ():
        if not _NAME.fullmatch(bundle.name):
            raise UserError(
                f"{bundle.path} has a name that is no part of a URL: call it NAME={bundle.path}"
                " with a NAME of letters, digits, '_', '.' and '-'"
            )
        if sum(other.name == bundle.name for other in found) > 1:
            raise UserError(
                f"two bundles are called {bundle.name!r}: give them different names, as in"
                f" NAME={bundle.path}"
            )
    return found


def model_names(bundles: Sequence[tuple[NamedBundle, Iterable[str]]]) -> list[dict[str, str]]:
    """Names of models by task, for each bundle with its tasks.

    A task is called by its own name or, if its bundle has been given a name or another bundle has a
    task of that name, ``BUNDLE.TASK``. Tasks are identifiers, so that none is called like that.
    """
    owners = Counter(task for _, tasks in bundles for task in tasks)
    return [
        {
            task: f"{bundle.name}.{task}" if bundle.given or owners[task] > 1 else task
            for task in tasks
        }
        for bundle, tasks in bundles
    ]


def by_bundle(
    texts: Iterable[str], separator: str, names: Sequence[str], option: str
) -> dict[str, list[str]]:
    """Sort an option's values by bundle: ``NAME`` and the separator before those for one bundle.

    Returns
    -------
    dict
        Values by the name of the bundle; those for all under the empty name.

    Raises
    ------
    UserError
        There is no such bundle.
    """
    found: dict[str, list[str]] = {"": []}
    for text in texts:
        name, mark, value = text.partition(separator)
        # A value may hold the separator itself: `fpga.name=a:b` names no bundle.
        if not mark or not (name in names or _NAME.fullmatch(name)):
            name, value = "", text
        elif name not in names:
            raise UserError(
                f"{option} {text!r} is for a bundle {name!r}, and the bundles are"
                f" {', '.join(names)}"
            )
        found.setdefault(name, []).append(value)
    return found
