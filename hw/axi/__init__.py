"""AXI4 read engines: from (offset, length) to bursts and back to a stream of beats."""
