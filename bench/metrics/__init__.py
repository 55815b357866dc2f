"""Arrays -> numbers: pure functions that know nothing of stores, plugins or testbeds. Imports
nothing by itself.
"""
