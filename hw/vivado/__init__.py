"""Projects for AMD Vivado: packaged IP, block design, constraints, overlay.

``python -m moesaic.hw.vivado --target zcu102 -o build/vivado/zcu102`` writes one. What it writes
has NOT been run through Vivado: ``tests/hw/test_vivado.py`` says what is checked instead.
"""
