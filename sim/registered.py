"""A wrapper that registers every input of a top, so that one evaluation settles a cycle.

Logic that hangs on inputs of the simulated module is evaluated at both clock edges. The memory
and the register bus know what they will present in the next cycle before it begins; with their
values in registers of the wrapper, everything settles at the rising edge and the falling edge
costs nothing. To the design, nothing changes: it sees each value in the same cycle as before.
"""

from __future__ import annotations

from moesaic.sim.ports import module_ports, port_directions
from moesaic.sim.probes import find_probes


def register_inputs(verilog: str, toplevel: str) -> tuple[str, str]:
    """Return (Verilog, toplevel) of the wrapper; its ports are those of ``toplevel`` and probes.

    An input of the wrapper is what the design sees in the cycle after the next rising edge.
    """
    wrapper = f"{toplevel}_registered"
    declarations, registers, moves, connections = [], [], [], []
    directions = port_directions(verilog, toplevel)
    for name, width in module_ports(verilog, toplevel).items():
        declarations.append(f"  {directions[name]} wire [{width - 1}:0] {name}")
        source = name
        if directions[name] == "input" and name != "clk":
            source = f"{name}__now"
            registers.append(f"  reg [{width - 1}:0] {source};")
            moves.append(f"    {source} <= {name};")
        connections.append(f"    .{name}({source})")
    probes = find_probes(verilog, toplevel)
    declarations += [f"  output wire [{p.width - 1}:0] {p.name}" for p in probes]
    lines = [f"module {wrapper} (", ",\n".join(declarations), ");", *registers]
    lines += ["  always @(posedge clk) begin", *moves, "  end"]
    lines += [f"  {toplevel} inner (", ",\n".join(connections), "  );"]
    lines += [f"  assign {p.name} = {p.value};" for p in probes]
    lines += ["endmodule", ""]
    return f"{verilog}\n" + "\n".join(lines), wrapper
