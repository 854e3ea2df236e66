"""Integer graph to steps: tiling, order of work, memory plan, tokens."""
