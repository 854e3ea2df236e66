"""The vector unit: everything that happens to numbers between matrix products."""
