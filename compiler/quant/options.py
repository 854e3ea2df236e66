"""What quantisation does besides rounding, each to be switched off alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from moesaic.spec.errors import UserError


@dataclass(frozen=True)
class QuantOptions:
    """All on by default; the names are those of ``moesaic compile --without``."""

    rotate: bool = True
    """Rotate the residual stream."""
    centre: bool = True
    """Take the mean off keys and values."""
    equalise: bool = True
    """Equal ranges for the channels of queries and keys, and of values."""
    ranges: bool = True
    """Choose ranges by the error behind them; else by least squares of the tensor itself."""
    feedback: bool = True
    """Feed rounding errors of weights into the weights not yet rounded."""
    correct: bool = True
    """Move the mean error of rounded weights into the bias."""

    @property
    def left_out(self) -> list[str]:
        """Names of what is switched off."""
        return [field.name for field in fields(self) if not getattr(self, field.name)]

    def without(self, names: Iterable[str]) -> QuantOptions:
        """These options with some switched off.

        Raises
        ------
        UserError
            There is no such option.
        """
        known = [field.name for field in fields(self)]
        names = [*names]
        for name in names:
            if name not in known:
                raise UserError(f"--without takes {', '.join(known)}, not {name!r}")
        return replace(self, **dict.fromkeys(names, False))
