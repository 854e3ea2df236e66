"""The runtime: transports, devices, sessions and the command line.

Importing it needs numpy only: devices load what they need when they are opened.
"""

from __future__ import annotations

from moesaic.host.driver import DeviceError
from moesaic.host.session import Outputs, Placement, QueueFull, Session

__all__ = ["DeviceError", "Outputs", "Placement", "QueueFull", "Session"]
