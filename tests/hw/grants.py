"""The token file as a unit sees it: grants a cycle late, and the rule that goes with them."""

from __future__ import annotations


class Grants:
    """Drives ``granted`` of one unit; call :meth:`sample` once per cycle when all is settled.

    Attributes
    ----------
    granted
        To be driven in the next cycle.
    """

    def __init__(self) -> None:
        self.granted = False
        self._asked: int | None = None  # the mask of the last cycle, if it is still wanted

    def sample(self, want: bool, wait: int, take: bool, there: bool) -> None:
        """What the unit shows in this cycle, and whether tokens for its mask are there.

        Raises
        ------
        AssertionError
            Tokens were taken that were not granted, or a mask changed or was given up on the way.
        """
        if take and wait:
            assert want and self.granted, "took tokens that were not granted"
        if self._asked is not None:
            assert want, f"gave up mask {self._asked:#x}"
            assert wait == self._asked, f"mask changed from {self._asked:#x} to {wait:#x}"
        self._asked = wait if want and not take else None
        self.granted = not take if self.granted else want and there
