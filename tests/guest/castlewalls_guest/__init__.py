"""A guest: one attack, two defenses, a detector and a measurement."""
