"""Options of devices as a command line gives them."""

from __future__ import annotations

from collections.abc import Iterable

from moesaic.spec.errors import UserError

Options = dict[str, dict[str, int | str]]
"""Arguments by device name, as :class:`moesaic.host.Session` takes them."""


def parse_options(texts: Iterable[str]) -> Options:
    """``fpga.clock_hz=300000000`` and the like; whole numbers (also 0x...) become ints.

    Raises
    ------
    UserError
        A text is not of this form.
    """
    options: Options = {}
    for text in texts:
        place, equals, value = text.partition("=")
        device, dot, key = place.partition(".")
        if not (equals and dot and device and key.isidentifier()):
            raise UserError(f"a device option is DEVICE.NAME=VALUE, not {text!r}")
        try:
            options.setdefault(device, {})[key] = int(value, 0)
        except ValueError:
            options[device][key] = value
    return options
