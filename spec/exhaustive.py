"""``assert_never``, which Python has from 3.11 on; boards have 3.10."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from typing import assert_never
else:
    from typing import NoReturn

    def assert_never(value: NoReturn) -> NoReturn:
        """A kind that a ``match`` has no case for: type checkers report it before it can happen."""
        raise AssertionError(f"unexpected {value!r}")


__all__ = ["assert_never"]
