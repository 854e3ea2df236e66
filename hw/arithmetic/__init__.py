"""Arithmetic that several units are made of, each bit for bit a function of `spec.semantics`."""
