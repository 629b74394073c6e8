"""A fleet to try a hub with: a city whose true totals are known."""
