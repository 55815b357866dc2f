"""What the adversary draws: triggers, patterns and targets, and the canvas they are drawn on. Used
by plugins only, by no stage and no measurement.
"""
