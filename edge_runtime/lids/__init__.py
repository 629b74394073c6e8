"""Lids behind one small protocol: one file for each kind, the safe actuator, and `open_lid`."""
