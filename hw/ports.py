"""Flat ports with the names that block designs expect, such as ``m_axi_d_araddr``."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Member, Out


def flat_members(prefix: str, signature: wiring.Signature) -> dict[str, Member]:
    """Members of ``signature`` as ports ``<prefix>_<member>`` of a component."""
    return {f"{prefix}_{name}": member for name, member in signature.members.items()}


def join_flat(
    m: Module,
    component: wiring.Component,
    prefix: str,
    signature: wiring.Signature,
    inner: wiring.PureInterface,
) -> None:
    """Connect the ports that ``flat_members`` made to the interface of an inner component."""
    for name, member in signature.members.items():
        outer, signal = getattr(component, f"{prefix}_{name}"), getattr(inner, name)
        m.d.comb += outer.eq(signal) if member.flow is Out else signal.eq(outer)
