"""The contract, written once: architecture, numerics, instruction set, registers, bundle format."""
