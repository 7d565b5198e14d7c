"""A plan through the machine."""
