"""Training recipes; each can be read from top to bottom."""
