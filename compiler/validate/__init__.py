"""Is what was recognised what the file says? Shown by running both, layer by layer."""
