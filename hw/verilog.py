"""Verilog text of a component, complete with the memory primitive it instantiates."""

from __future__ import annotations

import re

from amaranth.back import verilog
from amaranth.lib import wiring

from moesaic.hw.memory.ram import RAM_VERILOG, ULTRA_RAM, ULTRA_RAM_VERILOG

_LINT = """\
// Operands of unequal width and cases without a default are how the Verilog writer expresses what
// the generator has sized and assigned: Verilator's opinion on them is not wanted.
/* verilator lint_off CASEINCOMPLETE */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
"""

_EMPTY_WIRE = re.compile(r"^  wire \[-1:0\] .*;\n", re.MULTILINE)
"""Declaration of a signal of width zero. Verilog has none; nothing refers to it."""


def to_verilog(component: wiring.Component, name: str) -> str:
    """Return ``component`` as the Verilog module ``name``, with ports ``clk`` and ``rst``.

    Members of an interface port ``p`` become ``p__member``. The text depends only on the
    component: no source paths, no dates.
    """
    text = verilog.convert(component, name=name, strip_internal_attrs=True, emit_src=False)
    ultra = ULTRA_RAM_VERILOG if ULTRA_RAM in text else ""
    return f"{_LINT}\n{_EMPTY_WIRE.sub('', text)}\n{RAM_VERILOG}{ultra}"
