"""What scripts/vm does: build kernels and roots once, and run commands on them.

Standard library only: it runs before there is a virtual environment.
"""
