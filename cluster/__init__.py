"""The hub: batches in, an event lake, statistics on Ray, one page."""
