"""Whether a server can answer: asked by load balancers, and what brings failed devices back."""

from __future__ import annotations

import asyncio

from moesaic.host.failures import DeviceError
from moesaic.host.serving.admission import Admission
from moesaic.host.session import Session


class Health:
    """Readiness of a session behind an :class:`Admission`.

    A session opens failed devices again when the next frame comes. A load balancer sends none to
    a server that is not ready: so every question about it lets the session try, off the event loop.
    """

    def __init__(self, session: Session, admission: Admission) -> None:
        self._session, self._admission = session, admission
        self._attempt: asyncio.Task[None] | None = None

    def obstacle(self) -> str:
        """Why no request would be answered now; empty if one would be."""
        if self._admission.draining:
            return "the server is shutting down"
        places = self._session.placement()
        if any(place.state != "passed over" for place in places):
            return ""
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(asyncio.to_thread(self._try))
        reasons = "; ".join(f"{place.device}: {place.reason}" for place in places)
        return f"no device works: {reasons}"

    def _try(self) -> None:
        try:
            _ = self._session.device  # opens the first one that may be tried
        except DeviceError:
            pass  # placement() says why
