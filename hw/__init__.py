"""Amaranth generators of the accelerator."""
