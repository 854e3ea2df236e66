"""The table of drain kinds: complete, and consistent with the instruction set's documents."""

from __future__ import annotations

import pytest

from moesaic.spec.drains import DRAINS, Destination, Function, Wide, takes_pairs
from moesaic.spec.isa import FIELDS, Drain, Opcode


def test_every_kind_has_a_row() -> None:
    assert list(DRAINS) == list(Drain)


@pytest.mark.parametrize("kind", Drain, ids=lambda kind: kind.name)
def test_rows_agree_with_what_the_kinds_say_of_themselves(kind: Drain) -> None:
    each, said = DRAINS[kind], {field.name: field.doc for field in FIELDS[Opcode.DRAIN]}
    assert (kind.name in said["wide"]) == (each.wide is not Wide.NEVER)


def test_what_is_not_sent_anywhere_changes_the_residual_stream() -> None:
    for each in DRAINS.values():
        assert (each.destination is Destination.NONE) == (each.function is Function.UPDATE)
        assert each.destination is Destination.ACTIVATION or each.wide is Wide.NEVER


def test_pairs_of_chunks_are_of_attention_alone() -> None:
    """What has parameters would need twice their bandwidth, too, and planes twice the writes."""
    assert {k for k in Drain if takes_pairs(k, wide=False)} == {Drain.SOFTMAX, Drain.ATTENTION}
    assert {k for k in Drain if takes_pairs(k, wide=True)} == {Drain.SOFTMAX}
