"""Load and store unit: external memory to the scratchpads, results to external memory."""
