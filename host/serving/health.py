"""Whether a server can answer: asked by load balancers, and what brings failed devices back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from moesaic.host.failures import DeviceError
from moesaic.host.serving.admission import Admission
from moesaic.host.serving.bundles import Served


class Health:
    """Readiness of sessions behind an :class:`Admission`.

    A session opens failed devices again when the next frame comes. A load balancer sends none to
    a server that is not ready: so every question about it lets the session try, off the event loop.
    """

    def __init__(self, bundles: Sequence[Served], admission: Admission) -> None:
        self._bundles, self._admission = bundles, admission
        self._attempts: dict[Served, asyncio.Task[None]] = {}

    def obstacle(self, only: Served | None = None) -> str:
        """Why not every request would be answered now; empty if it would be.

        Parameters
        ----------
        only
            The bundle that requests are for; without one, each has to be able to answer.
        """
        if self._admission.draining:
            return "the server is shutting down"
        found = [self._obstacle(served) for served in (self._bundles if only is None else [only])]
        return "; ".join(filter(None, found))

    def _obstacle(self, served: Served) -> str:
        places = served.session.placement()
        if any(place.state != "passed over" for place in places):
            return ""
        attempt = self._attempts.get(served)
        if attempt is None or attempt.done():
            self._attempts[served] = asyncio.create_task(asyncio.to_thread(_try, served))
        reasons = "; ".join(f"{place.device}: {place.reason}" for place in places)
        where = f" for {served.name}" if served.name else ""
        return f"no device works{where}: {reasons}"


def _try(served: Served) -> None:
    try:
        _ = served.session.device  # opens the first one that may be tried
    except DeviceError:
        pass  # placement() says why
