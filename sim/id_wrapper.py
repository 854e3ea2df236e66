"""AXI identifiers for verification libraries that insist on them.

The accelerator keeps every port in order and has no ID signals; cocotbext-axi binds only to buses
that have them. The wrapper passes every port through and adds the missing wires.
"""

from __future__ import annotations

from moesaic.sim.ports import find_masters, module_ports, port_directions


def add_id_wires(verilog: str, toplevel: str = "top") -> tuple[str, str]:
    """Return (Verilog, toplevel) of a wrapper around ``toplevel`` with AXI IDs of one bit.

    ``awid`` and ``arid`` of every master are always 0; ``bid`` and ``rid`` are ignored.
    """
    wrapper = f"{toplevel}_with_ids"
    widths, directions = module_ports(verilog, toplevel), port_directions(verilog, toplevel)
    declarations = [
        f"  {directions[name]} wire [{width - 1}:0] {name}" for name, width in widths.items()
    ]
    connections = [f"    .{name}({name})" for name in widths]
    assigns = []
    for master in find_masters(verilog, toplevel):
        prefix = f"m_axi_{master.name}"
        for channel, answer in (("ar", "r"), ("aw", "b"))[: 1 + master.writable]:
            declarations.append(f"  output wire {prefix}_{channel}id")
            declarations.append(f"  input wire {prefix}_{answer}id")
            assigns.append(f"  assign {prefix}_{channel}id = 1'b0;")
    parts = [f"module {wrapper} (", ",\n".join(declarations), ");", *assigns]
    parts += [f"  {toplevel} inner (", ",\n".join(connections), "  );", "endmodule", ""]
    return f"{verilog}\n" + "\n".join(parts), wrapper
