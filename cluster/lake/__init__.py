"""The event lake: Delta tables on disk, durable commits. Knows no HTTP, no clock, no statistics."""
