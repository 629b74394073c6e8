"""Measurements, each against what a user would use instead, in one run.

`make bench` prints them as JSON lines.
"""
