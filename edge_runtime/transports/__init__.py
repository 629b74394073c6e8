"""Ways to the hub: one file for each, their TLS, and `open_transport`."""
