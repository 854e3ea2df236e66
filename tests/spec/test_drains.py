"""The table of drain kinds: complete, and consistent with the instruction set's documents."""

from __future__ import annotations

import pytest

from moesaic.spec.drains import DRAINS, Destination, Function, Wide
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
