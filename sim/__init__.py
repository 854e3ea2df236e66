"""Verilator builds, the DRAM model and the in-process simulator device."""
