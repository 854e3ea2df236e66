"""How fast a target's clock may be: static timing analysis of what yosys makes of its Verilog.

The design is synthesised block by block, equal blocks once, and linked again, so that paths from
unit to unit are whole. Cells have the delays of a data sheet, wires those of a model
(:mod:`moesaic.hw.timing.delays`): nothing has been placed. The order of the paths is good, the
nanoseconds are an estimate.

What depends on what at once from unit to unit is found without synthesis
(:mod:`moesaic.hw.timing.feedthrough`).
"""
