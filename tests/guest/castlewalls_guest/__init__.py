"""A guest: one of each plugin, and a measurement."""
