"""Measurements, each against what a user would use instead, in one run.

Prints JSON lines: `make bench`.
"""
