"""Presets whose whole gateware is elaborated by tests."""

from __future__ import annotations

import os

from moesaic.spec.presets import PRESETS

_MOST = PRESETS["zcu102"].macs_per_cycle
ELABORATED = [
    name
    for name, arch in PRESETS.items()
    if arch.macs_per_cycle <= _MOST or "MOESAIC_LARGE" in os.environ
]
"""A larger one takes minutes, and has no other units: ``tests/e2e/test_four_bits.py`` simulates
one of its kind, `make bench` the whole. With ``MOESAIC_LARGE`` in the environment it is here.
"""
