"""How what a stage makes lies in its folder: what one stage writes and another, or a measurement,
reads.
"""
