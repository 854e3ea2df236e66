"""The end of a ``match`` over all kinds. Python has one from 3.11 on; boards have 3.10."""

from __future__ import annotations

from typing import NoReturn


def unreachable(value: NoReturn) -> NoReturn:
    """Take a kind that no case took: type checkers report it before it can happen."""
    raise AssertionError(f"unexpected {value!r}")
