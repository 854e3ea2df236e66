"""What a target costs on an FPGA: its Verilog synthesised by yosys, block by block.

A block is a module of the hierarchy with everything below it, save for what is a block of its
own. So the blocks are a partition of the design: nothing is left out and nothing counted twice.
Modules that occur many times (the columns of the array) are synthesised once.

The counts are those of synthesis. There is no placement behind them, and no vendor's tool, which
would find smaller forms here and there.
"""
