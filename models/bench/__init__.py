"""`make bench`: what the accelerator achieves, measured on simulated gateware.

Every figure is computed in the run that prints it: cycles and traffic come from the RTL with its
DRAM, bit for bit checked against the integer reference; estimates from the compiler's model of the
units; resources from synthesis. ``cases`` says what is measured, ``measure`` runs the project's own
commands, ``goals`` judges, ``tables`` shows.
"""
