"""Refuses models that no schedule can place on an architecture."""

from __future__ import annotations

from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph, IntMoe


def check_capacity(graph: IntGraph, arch: ArchConfig) -> None:
    """Compare what ``graph`` needs at least with what ``arch`` has.

    Raises
    ------
    UserError
        Something is too small; both numbers are named.
    """
    residual_words = layout.words(graph.channels, arch.lanes)
    tokens = max(graph.tokens, graph.head.rows, graph.gather.shape[0])
    rules = [
        (
            "its residual stream needs {} words, the residual scratchpad has {}",
            graph.tokens * residual_words,
            arch.residual_words,
        ),
        ("its {} tokens exceed the {} accumulator rows", tokens, arch.accumulator_rows),
    ]
    for layer in graph.layers:
        if isinstance(layer, IntMoe):
            experts = len(layer.experts)
            logit_blocks = layout.words(experts, arch.width)
            where = f"layer {layer.name}"
            rules += [
                (where + " has {} experts, the router holds {}", experts, arch.max_experts),
                (where + " routes {} tokens, the router holds {}", tokens, arch.max_tokens),
                (
                    where + " needs {} accumulator rows for its logits, a bank has {}",
                    logit_blocks * graph.tokens,
                    arch.accumulator_rows,
                ),
                (
                    where + " needs {} parameter blocks for its logits, there are {}",
                    logit_blocks,
                    isa.PARAMETER_BLOCKS,
                ),
            ]
    for rule, needed, available in rules:
        if needed > available:
            raise UserError(
                f"the model does not fit target {arch.name}: {rule.format(needed, available)};"
                " use a larger target"
            )
