"""A cycle model of the accelerator that runs steps in seconds instead of simulating gates.

Every unit is a process with its own clock. It computes the time of each event of its
instructions from the times of the events that this one waits for, and publishes it; a process
that needs a time which is not known yet lets the others go on. No queue of events is needed,
because no unit can undo what another one has seen.

Not modelled: which tokens an expert gets (their number is given, or equal for all experts); single
pauses of the memory (their mean is) and how they differ between ports; commands so short that the
limit on outstanding bursts costs bandwidth (short ``max_burst`` is); on the data port, instructions
behind the first 64 that are fetched; conflicts between writers of an activation bank, and those
between the streamed and the stationary operand word by word (the stationary one waits for the whole
pass); output of one layer next to input of another on the data port in the order of bursts.
"""
