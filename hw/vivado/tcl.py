"""Small pieces of Tcl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NOTICE = "NOT RUN THROUGH VIVADO. Written by `python -m moesaic.hw.vivado`; do not edit."


def properties(values: Mapping[str, object], of: str, indent: str = "    ") -> list[str]:
    """Lines of one ``set_property -dict`` on the objects that the Tcl ``of`` gives."""
    lines = [f"{indent}set_property -dict [list \\"]
    lines += [f"{indent}    CONFIG.{name} {{{value}}} \\" for name, value in values.items()]
    return [*lines, f"{indent}] {of}"]


def net(pins: Iterable[str], indent: str = "    ") -> list[str]:
    """Lines of one ``connect_bd_net``."""
    first, *rest = (f"[get_bd_pins {pin}]" for pin in pins)
    lines = [f"{indent}connect_bd_net {first}", *(f"{indent}    {pin}" for pin in rest)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def interface(one: str, other: str, indent: str = "    ") -> str:
    """One ``connect_bd_intf_net``."""
    return f"{indent}connect_bd_intf_net [get_bd_intf_pins {one}] [get_bd_intf_pins {other}]"
