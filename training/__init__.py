"""Photographs in, a verified model bundle out. The only package that knows torch."""
