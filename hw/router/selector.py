"""Top-k: collects a token's logits and picks its experts, one per cycle."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.interfaces import logit_layout
from moesaic.hw.router.ranks import Ranks
from moesaic.spec import isa
from moesaic.spec.arch import ROUTER_LANES, ArchConfig
from moesaic.spec.formats import LOGIT_BITS
from moesaic.spec.isa import Opcode


def choice_layout(arch: ArchConfig) -> data.StructLayout:
    """A chosen expert. ``exists`` is low when a token has fewer experts than choices."""
    return data.StructLayout(
        {
            "key": LOGIT_BITS,
            "expert": range(arch.router_slots),
            "row": range(arch.max_tokens),
            "exists": 1,
            "first": 1,
            "last": 1,
        }
    )


def group_layout() -> data.StructLayout:
    """``ROUTER_LANES`` logits of a token, with those that exist in ``mask``."""
    return data.StructLayout(
        {
            "keys": data.ArrayLayout(LOGIT_BITS, ROUTER_LANES),
            "mask": ROUTER_LANES,
            "first": 1,
            "last": 1,
        }
    )


class Selector(wiring.Component):
    """Chooses ``top_k`` experts per token, in descending order, ties to the lower expert.

    A token takes ``max(chunks + 1, top_k, rank_cycles)`` cycles; its first choice is on
    ``choice`` ``rank_cycles + 5`` cycles after its last chunk, and the next tokens are
    collected and ranked meanwhile. Keys are logits with the sign bit turned over, so that unsigned
    order is their order. The first choice of a token is on ``choice`` when the first group of all
    its logits is on ``group``, so the maximum is known before the first logit is needed. The
    outputs cannot be refused.

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
        All logits of the token, ``ROUTER_LANES`` per cycle.
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
        slots, lanes = arch.router_slots, arch.lanes
        bits = LOGIT_BITS
        load = Signal()

        # Collect chunks.
        collected = Signal(slots * bits, reset_less=True)
        collected_row = Signal(range(arch.max_tokens), reset_less=True)
        full, free = Signal(), Signal(init=1)  # `ready` has a register of its own
        chunks = -(-slots // lanes)
        chunk = Signal(range(max(2, chunks)))
        taken = Signal()
        m.d.comb += [
            self.logits.ready.eq(free),
            taken.eq(self.logits.valid & ~full),
            self.token.eq(taken & self.logits.payload.last),
        ]
        raw = self.logits.payload.logits
        keys = Cat(Cat(raw[lane][:-1], ~raw[lane][-1]) for lane in range(min(lanes, slots)))
        with m.If(load):
            m.d.sync += [full.eq(0), free.eq(1)]
        with m.If(taken):
            for c in range(chunks):
                with m.If(chunk == c):
                    m.d.sync += collected[c * lanes * bits : (c + 1) * lanes * bits].eq(keys)
            m.d.sync += [
                full.eq(self.token),
                free.eq(~self.token),
                chunk.eq(Mux(self.token, 0, chunk + 1)),
            ]
        with m.If(self.token):
            m.d.sync += collected_row.eq(self.row)

        # What depends on the instruction only.
        enabled = Signal(slots)
        groups = Signal(range(slots // ROUTER_LANES + 1))
        period = Signal(range(max(1 << len(self.top_k), arch.rank_cycles + 1)))
        period_less_1 = Signal.like(period)

        m.d.sync += [
            enabled.eq(Cat(self.experts > e for e in range(slots))),
            groups.eq((self.experts + ROUTER_LANES - 1) >> ROUTER_LANES.bit_length() - 1),
            period.eq(Mux(self.top_k > arch.rank_cycles, self.top_k, arch.rank_cycles)),
            period_less_1.eq(period - 1),
        ]

        # Rank: every key against some others per cycle.
        ranked = Signal(slots * bits, reset_less=True)
        ranked_row = Signal(range(arch.max_tokens), reset_less=True)
        position = Signal(range(1 << len(period)))
        ranking, last_position, finish = Signal(), Signal(), Signal()
        m.submodules.ranks = ranks = Ranks(slots, bits, arch.rank_distances)
        m.d.comb += [
            load.eq(full & (~ranking | last_position)),
            finish.eq(ranking & (position == arch.rank_cycles - 1)),
            ranks.keys.eq(ranked),
            ranks.enabled.eq(enabled),
            ranks.load.eq(load),
            ranks.next_keys.eq(collected),
        ]
        with m.If(load):
            m.d.sync += [
                ranked.eq(collected),
                ranked_row.eq(collected_row),
                ranking.eq(1),
                position.eq(0),
            ]
        with m.Else():
            m.d.sync += [position.eq(position + 1), ranking.eq(ranking & ~last_position)]
        m.d.sync += last_position.eq(Mux(load, period_less_1 == 0, position + 1 == period_less_1))
        begin = delay(m, finish, Ranks.LATENCY, "begin", control=True)
        begin_keys = delay(m, ranked, Ranks.LATENCY, "begin_keys")
        begin_row = delay(m, ranked_row, Ranks.LATENCY, "begin_row")

        # Choose: the key of rank 0, 1, ... in each cycle.
        token = Signal(slots * bits, reset_less=True)
        row = Signal(range(arch.max_tokens), reset_less=True)
        order = [Signal(range(slots), name=f"order_{e}", reset_less=True) for e in range(slots)]
        chosen = Signal(slots)
        active = Signal()
        turn, following = Signal.like(period), Signal.like(period)
        last_turn = Signal()
        m.d.comb += last_turn.eq(turn == period_less_1)
        with m.If(begin):
            m.d.sync += [
                token.eq(begin_keys),
                row.eq(begin_row),
                Cat(order).eq(Cat(ranks.rank)),
                chosen.eq(Cat(ranks.rank[e] == 0 for e in range(slots)) & enabled),
                active.eq(1),
                turn.eq(0),
                following.eq(1),
            ]
        with m.Else():
            m.d.sync += [
                chosen.eq(Cat(order[e] == following for e in range(slots)) & enabled),
                turn.eq(following),
                following.eq(following + 1),
                active.eq(active & ~last_turn),
            ]
        key = reduce(or_, (Mux(chosen[e], token.word_select(e, bits), 0) for e in range(slots)))
        m.d.sync += [
            self.choice_valid.eq(active & (turn < self.top_k)),
            self.choice.key.eq(key),
            self.choice.exists.eq(chosen.any()),
            self.choice.expert.eq(reduce(or_, (Mux(chosen[e], e, 0) for e in range(slots)))),
            self.choice.row.eq(row),
            self.choice.first.eq(turn == 0),
            self.choice.last.eq(following == self.top_k),
        ]

        # All logits pass by once, beginning with the first choice.
        passing = Signal(slots * bits, reset_less=True)
        mask = Signal(slots, reset_less=True)
        passed = Signal(range(slots // ROUTER_LANES + 1))
        with m.If(active & (turn == 0)):
            m.d.sync += [
                passing.eq(token),
                mask.eq(enabled),
                passed.eq(0),
                self.group_valid.eq(1),
            ]
        with m.Else():
            m.d.sync += [
                passing.eq(passing >> ROUTER_LANES * bits),
                mask.eq(mask >> ROUTER_LANES),
                passed.eq(passed + 1),
            ]
            with m.If(self.group.last):
                m.d.sync += self.group_valid.eq(0)
        m.d.comb += [
            Cat(self.group.keys).eq(passing),
            self.group.mask.eq(mask),
            self.group.first.eq(passed == 0),
            self.group.last.eq(passed + 1 == groups),
        ]
        return m
