"""Simple dual-port RAM: the one memory primitive of the gateware.

Amaranth writes every initial word of a memory into the Verilog, which costs minutes and megabytes
for a weight ring of two megabytes. The memory is therefore an instance of a small parametric
Verilog module, ``moesaic_ram``, whose text ``moesaic.hw.generate`` puts into every top file.
The module is written in the style that block RAM and UltraRAM inference expects.
"""

from __future__ import annotations

from amaranth import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

RAM_VERILOG = """\
module moesaic_ram #(
    parameter WIDTH = 8, parameter DEPTH = 2, parameter ADDRESS = 1, parameter LANES = 1
) (
    input wire clk,
    input wire [LANES-1:0] write_enable,
    input wire [ADDRESS-1:0] write_address,
    input wire [WIDTH-1:0] write_data,
    input wire read_enable,
    input wire [ADDRESS-1:0] read_address,
    output reg [WIDTH-1:0] read_data
);
    localparam LANE = WIDTH / LANES;
    (* ram_style = "block" *) reg [WIDTH-1:0] memory [0:DEPTH-1];
    integer lane;
    always @(posedge clk) begin
        for (lane = 0; lane < LANES; lane = lane + 1)
            if (write_enable[lane])
                memory[write_address][lane*LANE +: LANE] <= write_data[lane*LANE +: LANE];
        if (read_enable)
            read_data <= memory[read_address];
    end
endmodule
"""

ULTRA_RAM = "moesaic_ultra_ram"
BLOCK_STYLE, ULTRA_STYLE = 'ram_style = "block"', 'ram_style = "ultra"'
ULTRA_RAM_VERILOG = RAM_VERILOG.replace("moesaic_ram", ULTRA_RAM).replace(BLOCK_STYLE, ULTRA_STYLE)
"""The same memory for UltraRAM, in the text of targets that have some."""


class Ram(wiring.Component):
    """``depth`` words of ``width`` bits, one write and one read port, read latency 1 cycle.

    A read in the cycle of a write to the same word returns the old word. Contents and
    ``read_data`` are undefined until written. ``read_data`` holds while ``read_enable`` is low.

    Parameters
    ----------
    width, depth
        Bits per word and number of words.
    lanes
        Separately write-enabled parts of a word; must divide ``width``.
    ultra
        In UltraRAM. Its port A goes before its port B in a cycle (UG573), and yosys has reads on A
        and writes on B: the old word is read as ever. What Vivado makes of it has not been seen,
        so this is for users that do not read a word in the cycle of its write.
    """

    def __init__(self, width: int, depth: int, lanes: int = 1, *, ultra: bool = False) -> None:
        if width % lanes:
            raise ValueError(f"lanes must divide width {width}, not {lanes!r}")
        self.width, self.depth, self.lanes = width, max(depth, 2), lanes
        self.address_bits = (self.depth - 1).bit_length()
        self._module = ULTRA_RAM if ultra else "moesaic_ram"
        super().__init__(
            {
                "write_enable": In(lanes),
                "write_address": In(self.address_bits),
                "write_data": In(width),
                "read_enable": In(1, init=1),
                "read_address": In(self.address_bits),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ram = Instance(
            self._module,
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            p_ADDRESS=self.address_bits,
            p_LANES=self.lanes,
            i_clk=ClockSignal(),
            i_write_enable=self.write_enable,
            i_write_address=self.write_address,
            i_write_data=self.write_data,
            i_read_enable=self.read_enable,
            i_read_address=self.read_address,
            o_read_data=self.read_data,
        )
        return m
