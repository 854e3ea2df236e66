"""The integer semantics in C for processors: what the device `cpu` computes with where it can.

``library`` loads it, ``constants`` puts a graph's values in its form, ``executor`` runs frames.
The law is :mod:`moesaic.spec.execute`, which torch computes: tests hold every level of
instructions to its bits, and it stands in where there is no library or where sums of products
could leave 32 bits.
"""
