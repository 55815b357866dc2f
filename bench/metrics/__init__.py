"""Arrays -> numbers: pure functions, independent of stores, plugins and testbeds. The package
itself imports nothing.
"""
