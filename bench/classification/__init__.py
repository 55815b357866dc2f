"""Image classifiers: poisoned data compromises them, besides the generator, and detectors use their
features.
"""
