"""Which linear layers have weights of four bits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from moesaic.compiler import ir
from moesaic.compiler.points import sites
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.formats import FEW_WEIGHT_BITS, WEIGHT_BITS
from moesaic.spec.presets import presets_with

Few = Mapping[str, Collection[str]]
"""Task to the roles (``points.Site``) of its linear layers whose weights have four bits."""
AUTO = "auto"
EXPERTS = "experts"
"""Kind of a group: all experts of a layer."""
_NEVER = "gate", "linear"
"""Ends of roles whose weights keep eight bits: what decides the routing, and what makes the stream
anew, whose channels differ by orders of magnitude."""
_EXPERT = re.compile(r"expert\d+")
_KINDS = {"query": "attention", "key": "attention", "value": "attention", "output": "attention"}
_KINDS |= {"up": "mlp", "factor": "mlp", "down": "mlp"}


def weight_groups(graph: ir.Graph) -> dict[str, list[str]]:
    """Roles of linear layers that have four bits together, by the name of the group: ``embed``,
    ``0.attention``, ``1.mlp``, ``3.experts``, ``head``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for site in sites(graph):
        number, _, part = site.role.partition(".")
        if part in _NEVER:
            continue
        kind = EXPERTS if _EXPERT.match(part) else _KINDS.get(part, "")
        groups[f"{number}.{kind}" if kind else number].append(site.role)
    return dict(groups)


@dataclass(frozen=True)
class WeightBits:
    """Bits of the weights, 8 or 4: of experts, and of all other layers but gates.

    Attributes
    ----------
    experts, others
        Bits; ``others`` may be ``auto``: layers are chosen, experts like others, so that every
        task's SQNR stays at ``least_db`` or above.
    least_db
        Decibels, with ``auto`` only.
    """

    experts: int = WEIGHT_BITS
    others: int | str = WEIGHT_BITS
    least_db: float | None = None

    @classmethod
    def of(
        cls,
        experts: int | None = None,
        weights: int | str = WEIGHT_BITS,
        least_db: float | None = None,
    ) -> WeightBits:
        """What the options of ``compile`` mean; experts have the bits of all weights if they have
        none of their own.

        Raises
        ------
        UserError
            A number is neither 4 nor 8, or the options do not go together.
        """
        known = (FEW_WEIGHT_BITS, WEIGHT_BITS)
        if weights != AUTO and weights not in known:
            raise UserError(f"--weights takes 4, 8 or auto, not {weights!r}")
        if experts is not None and experts not in known:
            raise UserError(f"--experts takes 4 or 8, not {experts!r}")
        if weights == AUTO and least_db is None:
            raise UserError("--weights auto needs --min-sqnr: the decibels to keep")
        if weights == AUTO and experts is not None:
            raise UserError("--weights auto chooses experts too: leave out --experts")
        if weights != AUTO and least_db is not None:
            raise UserError("--min-sqnr is for --weights auto: give both, or neither")
        if least_db is not None and not 0 <= least_db < float("inf"):
            raise UserError(f"--min-sqnr takes decibels from 0 on, not {least_db:g}")
        if weights == AUTO:
            return cls(WEIGHT_BITS, AUTO, least_db)
        return cls(int(weights) if experts is None else experts, int(weights))

    @property
    def automatic(self) -> bool:
        return self.others == AUTO

    @property
    def certain(self) -> tuple[bool, bool]:
        """Whether experts, and all others, have four bits for certain."""
        return self.experts == FEW_WEIGHT_BITS, self.others == FEW_WEIGHT_BITS

    @property
    def any_few(self) -> bool:
        """Whether a layer may have four bits."""
        return self.automatic or any(self.certain)

    def check(self, arch: ArchConfig) -> None:
        """Refuse four bits on a target that has no way for them.

        Raises
        ------
        UserError
            It has not.
        """
        if self.any_few and not arch.four_bit_weights:
            raise UserError(
                f"target {arch.name} takes weights of {WEIGHT_BITS} bits only: use a target with"
                f" four_bit_weights ({presets_with('four_bit_weights')}), or leave out --experts"
                " and --weights"
            )

    def notes(self, graph: ir.Graph) -> list[str]:
        """Where four bits were asked for experts, and there are none."""
        mixtures = any(isinstance(layer, ir.Moe) for layer in graph.layers)
        if mixtures or self.certain != (True, False):
            return []
        return ["--experts 4 changes nothing, there are no experts: --weights 4 is for all layers"]

    def roles(self, graph: ir.Graph) -> frozenset[str]:
        """Linear layers with four bits; none of them if they are still to be chosen."""
        chosen: set[str] = set()
        for name, roles in weight_groups(graph).items():
            bits = self.experts if name.endswith(EXPERTS) else self.others
            chosen |= set(roles) if bits == FEW_WEIGHT_BITS else set()
        return frozenset(chosen)
