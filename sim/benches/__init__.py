"""cocotb benches of the units."""
