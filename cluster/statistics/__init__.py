"""Counts of the lake's events: the DuckDB kernel, the kernel as Ray tasks, and the queries."""
