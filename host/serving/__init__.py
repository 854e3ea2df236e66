"""A session behind HTTP: the Open Inference Protocol (KServe v2), bounded in queue and memory.

``moesaic.host`` does not import it: a runtime without a server needs numpy only.
"""
