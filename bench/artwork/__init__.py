"""What the adversary draws: triggers, patterns and targets, and the canvas under them. Plugins use
it; no stage and no measurement does.
"""
