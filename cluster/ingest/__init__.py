"""The way into the lake: batches are dated, committed in groups, and acknowledged."""
