"""Control block: registers, instruction fetch and dispatch, tokens, counters, errors."""
