"""From counts to estimates with intervals: arrays in, numbers out. Reads no table, no file."""
