"""Image classifiers: what a poisoned data set compromises beside a generator, and what detectors
look through.
"""
