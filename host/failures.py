"""What an accelerator raises when it, and not its input, is at fault."""

from __future__ import annotations


class DeviceError(Exception):
    """The accelerator reported an error, or nothing in time."""


class TransportError(Exception):
    """The accelerator did not do what the bus asked: an error response, or none in time."""
