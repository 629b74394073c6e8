"""The hub's database: who is who. Events are never in it."""
