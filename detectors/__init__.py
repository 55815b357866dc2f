"""One detector, one file. Every class here with a ``card`` is found by name; files that start with
``_`` are helpers.
"""
