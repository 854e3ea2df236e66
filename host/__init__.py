"""The runtime: transports, devices and sessions.

Using it needs numpy only: devices load what they need when they are opened. Importing it needs
nothing at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesaic.host.failures import DeviceError
    from moesaic.host.outputs import Outputs
    from moesaic.host.session import Placement, QueueFull, Session

__all__ = ["DeviceError", "Outputs", "Placement", "QueueFull", "Session"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"DeviceError": "failures", "Outputs": "outputs"}.get(name, "session")
    return getattr(importlib.import_module(f"moesaic.host.{home}"), name)
