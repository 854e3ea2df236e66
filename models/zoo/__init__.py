"""Architectures that people bring: which of them compile, and why the others do not.

``make zoo`` builds each with random weights, two layers deep, exports it as its users would, and
runs the project's own commands on the file.
"""
