"""Devices and their options as a command line or a caller gives them, and what they must be."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from moesaic.spec.errors import UserError

Options = dict[str, dict[str, int | str]]
"""Arguments by device name, as :class:`moesaic.host.Session` takes them."""


def device_names(devices: str | Sequence[str]) -> list[str]:
    """Names by preference, from a sequence or from ``cuda,cpu``.

    Raises
    ------
    UserError
        There is none, or it is neither.
    """
    if isinstance(devices, str):
        devices = devices.split(",")
    if not isinstance(devices, Sequence) or not all(isinstance(name, str) for name in devices):
        raise UserError(f"devices must be names, as in 'cuda,cpu' or ['cuda'], not {devices!r}")
    names = [name.strip() for name in devices]
    if not any(names):
        raise UserError("no device is named; the one that needs nothing is 'cpu'")
    return names


_ALIASES = {"gpu": "cuda", "rtl": "sim"}
"""What devices are called elsewhere: the nearest spelling of ``gpu`` would be ``cpu``."""


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'clock_hz'?`` or nothing: what may have been meant by an unknown name."""
    name, known = name.lower(), list(known)
    alias = _ALIASES.get(name)
    found = [alias] if alias in known else difflib.get_close_matches(name, known, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def check_option_devices(
    options: Mapping[str, Mapping[str, Any]], names: Sequence[str], known: Iterable[str]
) -> None:
    """Refuse options of devices that there are not, or that are not used.

    Raises
    ------
    UserError
        The first of them, with the name that may have been meant.
    """
    for device in options:
        if device not in known:
            all_names = ", ".join(sorted(known))
            hint = near(device, known) or f"; devices are {all_names}"
            raise UserError(f"options are given for an unknown device {device!r}{hint}")
        if device not in names:
            raise UserError(
                f"options are given for the device {device!r}, which is not among"
                f" {', '.join(names)}: name it as a device too, or leave them out"
            )


def bind_options(name: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the device ``kind`` takes them; a text may stand for a path.

    Raises
    ------
    UserError
        It has no such option, or the option is of another type.
    """
    parameters = list(inspect.signature(kind).parameters.values())[1:]  # the bundle comes first
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    takes_any = len(known) < len(parameters)
    try:
        hints = get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except NameError:  # types that are there for a type checker only
        hints = {}
    bound = {}
    for option, value in options.items():
        if option not in known and not takes_any:
            hint = near(option, known) or f"; it has {', '.join(known) or 'none'}"
            raise UserError(
                f"device {name} cannot be opened with these options: it has no option"
                f" {option!r}{hint}"
            )
        bound[option] = _fitted(f"{name}.{option}", value, hints.get(option, Any))
    try:
        inspect.signature(kind).bind(None, **bound)
    except TypeError as error:  # one that it needs is not there
        raise UserError(f"device {name} cannot be opened with these options: {error}") from error
    return bound


def _fitted(place: str, value: Any, wanted: Any) -> Any:
    """A value of a type that is ``wanted``; of types that cannot be tested it is as given."""
    kinds = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    if Any in kinds or not all(isinstance(kind, type) for kind in kinds):
        return value
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return value
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    if bool in kinds and value in (0, 1):  # as a command line writes it
        return bool(value)
    names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    raise UserError(f"option {place} must be of the type {names}, not {value!r}")


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
        of_device = options.setdefault(device, {})
        if key in of_device:
            raise UserError(f"device option {place} is given twice; give it once")
        try:
            of_device[key] = int(value, 0)
        except ValueError:
            of_device[key] = value
    return options
