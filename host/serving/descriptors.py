"""File descriptors: how many connections a process can have open."""

from __future__ import annotations

import os
import resource

from moesaic.host.serving.limits import FEWEST_CONNECTIONS
from moesaic.spec.errors import UserError

ACCEPT_BURST = 4
"""Connections that are accepted in one turn of the event loop."""
_RESERVE = 3 * ACCEPT_BURST + 12
"""Descriptors that connections leave free. A burst is accepted while another one is not counted yet
and a third one, closed in its favour, is not gone yet; twelve are for the devices and Python."""


def connections_that_fit(wanted: int, ports: int = 1) -> int:
    """As many connections as wanted, or as many as descriptors are left for, on each port.

    Raises
    ------
    UserError
        There are hardly any.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    taken = len(os.listdir(folder)) - 1  # one is the listing's own
    room = (limit - taken - ports * _RESERVE) // ports
    if room < FEWEST_CONNECTIONS:
        raise UserError(
            f"{limit} file descriptors are too few for a server, which needs"
            f" {taken + ports * (_RESERVE + FEWEST_CONNECTIONS)}; raise the limit with ulimit -n"
        )
    return min(wanted, room)
