"""Top-k: collects a token's logits and picks its experts, one per cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import logit_layout
from moesaic.hw.router.tournament import tournament
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import LOGIT_BITS
from moesaic.spec.isa import Opcode

EXP_LANES = 8
"""Exponentials per cycle for the sum over all experts: 16 experts take two cycles."""


def expert_slots(arch: ArchConfig) -> int:
    """Logits a token can have, padded so that the tournament and the lanes are full."""
    return max(EXP_LANES, arch.max_experts)


def choice_layout(arch: ArchConfig) -> data.StructLayout:
    """A chosen expert. ``exists`` is low when a token has fewer experts than choices."""
    return data.StructLayout(
        {
            "key": LOGIT_BITS,
            "expert": range(expert_slots(arch)),
            "row": range(arch.max_tokens),
            "exists": 1,
            "first": 1,
            "last": 1,
        }
    )


def group_layout() -> data.StructLayout:
    """``EXP_LANES`` logits of a token, with those that exist in ``mask``."""
    return data.StructLayout(
        {
            "keys": data.ArrayLayout(LOGIT_BITS, EXP_LANES),
            "mask": EXP_LANES,
            "first": 1,
            "last": 1,
        }
    )


class Selector(wiring.Component):
    """Chooses ``top_k`` experts per token, in descending order, ties to the lower expert.

    A token takes ``max(chunks, top_k, experts / EXP_LANES)`` cycles; the next one is collected
    meanwhile. Keys are logits with the sign bit turned over, so that unsigned order is their
    order. The first choice of a token is on ``choice`` when the first group of all its logits is
    on ``group``, so the maximum is known before the first logit is needed. The outputs cannot be
    refused.

    Attributes
    ----------
    logits
        Chunks of ``lanes`` logits in column order.
    experts, top_k
        Logits that count, and choices per token; stable while tokens are inside.
    row
        Row number of the token whose last chunk is taken in this cycle.
    token
        High in a cycle in which a token's last chunk is taken.
    choice, choice_valid
        A chosen expert per cycle.
    group, group_valid
        All logits of the token, ``EXP_LANES`` per cycle.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "logits": In(stream.Signature(logit_layout(arch))),
                "experts": In(isa.width(Opcode.ROUTE, "experts")),
                "top_k": In(isa.width(Opcode.ROUTE, "top_k")),
                "row": In(range(arch.max_tokens)),
                "token": Out(1),
                "choice": Out(choice_layout(arch)),
                "choice_valid": Out(1),
                "group": Out(group_layout()),
                "group_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        slots, lanes = expert_slots(arch), arch.lanes
        bits = LOGIT_BITS
        load = Signal()

        # Collect chunks.
        collected = Signal(slots * bits, reset_less=True)
        collected_row = Signal(range(arch.max_tokens), reset_less=True)
        full = Signal()
        chunks = -(-slots // lanes)
        chunk = Signal(range(max(2, chunks)))
        m.d.comb += [
            self.logits.ready.eq(~full | load),
            self.token.eq(self.logits.valid & self.logits.ready & self.logits.payload.last),
        ]
        raw = self.logits.payload.logits
        keys = Cat(Cat(raw[lane][:-1], ~raw[lane][-1]) for lane in range(min(lanes, slots)))
        with m.If(load):
            m.d.sync += full.eq(0)
        with m.If(self.logits.valid & self.logits.ready):
            for c in range(chunks):
                with m.If(chunk == c):
                    m.d.sync += collected[c * lanes * bits : (c + 1) * lanes * bits].eq(keys)
            m.d.sync += [full.eq(self.token), chunk.eq(Mux(self.token, 0, chunk + 1))]
        with m.If(self.token):
            m.d.sync += collected_row.eq(self.row)

        # What depends on the instruction only.
        enabled = Signal(slots)
        groups = Signal(range(slots // EXP_LANES + 1))
        period = Signal(range(max(1 << len(self.top_k), slots // EXP_LANES + 1)))
        m.d.sync += [
            enabled.eq(Cat(self.experts > e for e in range(slots))),
            groups.eq((self.experts + EXP_LANES - 1) >> (EXP_LANES.bit_length() - 1)),
            period.eq(Mux(self.top_k > groups, self.top_k, groups)),
        ]

        # Choose: one tournament per cycle among those not chosen yet.
        token = Signal(slots * bits, reset_less=True)
        row = Signal(range(arch.max_tokens), reset_less=True)
        remaining = Signal(slots)
        active = Signal()
        turn = Signal(range(1 << len(self.top_k)))
        last_turn = Signal()
        winner = tournament(
            m,
            [Cat(token[e * bits : (e + 1) * bits], remaining[e]) for e in range(slots)],
            "round",
        )
        m.d.comb += [
            last_turn.eq(turn + 1 == period),
            load.eq(full & (~active | last_turn)),
        ]
        with m.If(load):
            m.d.sync += [
                token.eq(collected),
                row.eq(collected_row),
                remaining.eq(enabled),
                active.eq(1),
                turn.eq(0),
            ]
        with m.Else():
            m.d.sync += [
                turn.eq(turn + 1),
                active.eq(active & ~last_turn),
                remaining.eq(remaining & ~Cat(winner.index == e for e in range(slots))),
            ]
        m.d.sync += [
            self.choice_valid.eq(active & (turn < self.top_k)),
            self.choice.key.eq(winner.key[:bits]),
            self.choice.exists.eq(winner.key[bits]),
            self.choice.expert.eq(winner.index),
            self.choice.row.eq(row),
            self.choice.first.eq(turn == 0),
            self.choice.last.eq(turn + 1 == self.top_k),
        ]

        # All logits pass by once, beginning with the first choice.
        passing = Signal(slots * bits, reset_less=True)
        mask = Signal(slots, reset_less=True)
        position = Signal(range(slots // EXP_LANES + 1))
        with m.If(active & (turn == 0)):
            m.d.sync += [
                passing.eq(token),
                mask.eq(enabled),
                position.eq(0),
                self.group_valid.eq(1),
            ]
        with m.Else():
            m.d.sync += [
                passing.eq(passing >> EXP_LANES * bits),
                mask.eq(mask >> EXP_LANES),
                position.eq(position + 1),
            ]
            with m.If(self.group.last):
                m.d.sync += self.group_valid.eq(0)
        m.d.comb += [
            Cat(self.group.keys).eq(passing),
            self.group.mask.eq(mask),
            self.group.first.eq(position == 0),
            self.group.last.eq(position + 1 == groups),
        ]
        return m
